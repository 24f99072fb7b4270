"""Norms, activations, feed-forward parts and linears, as modules and as formulas."""

from __future__ import annotations

from dataclasses import dataclass

from txgraph.fuzz.block import Block
from txgraph.fuzz.choices import Choices, form, one_of, part
from txgraph.fuzz.source import Writer


@dataclass(frozen=True)
class LayerNorm(Block):
    """Layer norm, or by ``twist`` something that is nearly one."""

    how: str = form("module", "functional", "rsqrt", "pow", "var", "var_mean", "square_mean", "scaled_first")
    affine: str = one_of("both", "none", "weight", "bias")
    swapped: bool = form(False, True)
    eps: float = one_of(1e-5, 1e-12, 1e-3)
    upcast: bool = form(False, True)
    twist: str = one_of("none", "unbiased", "eps_outside", "tokens", "not_centred", "returned", "one_plus")

    def settled(self, full_rows: bool) -> frozenset[str]:
        """A twist is written in some of the forms only."""
        return frozenset() if self.twist == "none" else frozenset(("how", "upcast", "late"))

    def write(self, w: Writer, x: str) -> str:
        E, plain = w.width, self.twist in ("none", "one_plus")
        weight = w.values("weight", E, around=1.0) if self.affine in ("both", "weight") else ""
        bias = w.values("bias", E) if self.affine in ("both", "bias") else ""
        added = " + 1.0" if self.twist == "one_plus" and weight else ""
        if self.how == "module" and plain and not added and bool(weight) == bool(bias):
            options = ", elementwise_affine=False" if not weight else ""
            made = f"nn.LayerNorm({E}, eps={self.eps}{options})"
            return w.let(f"{w.attribute('norm', f'filled({made}, {weight=!s}, {bias=!s})' if weight else made)}({x})")
        weight = weight and w.attribute("weight", f"nn.Parameter({weight})")
        bias = bias and w.attribute("bias", f"nn.Parameter({bias})")
        factor = f"({weight}{added})" if added else weight
        if self.how in ("module", "functional") and plain:
            return w.let(f"F.layer_norm({x}, ({E},), {factor or None}, {bias or None}, {self.eps})")
        upcast = self.upcast and w.dtype != "float64"  # float32 would lose what float64 is judged by
        start = w.let(f"{x}.float()") if upcast else x
        y = self._normalised(w, start)
        y = w.let(f"{y}.to({x}.dtype)") if upcast else y
        if factor:
            y = w.let(f"{factor} * {y}" if self.swapped else f"{y} * {factor}")
        return w.let(f"{bias} + {y}" if self.swapped else f"{y} + {bias}") if bias else y

    def _normalised(self, w: Writer, x: str) -> str:
        axis = 1 if self.twist == "tokens" else -1
        mean = w.let(f"{x}.mean({axis}, keepdim=True)")
        d = x if self.twist == "not_centred" else w.let(f"{x} - {mean}", "d")
        if self.twist == "unbiased":
            variance = f"{x}.var({axis}, keepdim=True)"
        elif self.how == "var":
            variance = f"{x}.var({axis}, unbiased=False, keepdim=True)"
        elif self.how == "var_mean":
            variance = f"torch.var_mean({x}, {axis}, correction=0, keepdim=True)[0]"
        elif self.how == "square_mean":
            variance = f"(({x} * {x}).mean({axis}, keepdim=True) - {mean} * {mean}).clamp(min=0)"
        elif self.how == "pow":
            variance = f"({x} - {mean}).pow(2).mean({axis}, keepdim=True)"
        else:
            variance = f"({d} * {d}).mean({axis}, keepdim=True)"
        v = w.let(variance, "v")
        if self.twist == "returned":
            w.extra.append(v)
        if self.twist == "eps_outside":
            return w.let(f"{d} / ({v}.sqrt() + {self.eps})")
        if self.how in ("rsqrt", "var_mean", "scaled_first"):
            return w.let(f"{d} * torch.rsqrt({v} + {self.eps})")
        return w.let(f"{d} / torch.sqrt({v} + {self.eps})")


@dataclass(frozen=True)
class RmsNorm(Block):
    """RMS norm, or by ``twist`` something that is nearly one."""

    how: str = form("module", "functional", "rsqrt", "divided", "power", "norm", "square")
    affine: bool = one_of(True, False)
    swapped: bool = form(False, True)
    eps: float = one_of(1e-5, 1e-12, 1e-3)
    upcast: bool = form(False, True)
    late: bool = form(False, True)
    twist: str = one_of("none", "one_plus", "eps_outside", "tokens", "summed", "returned")

    def settled(self, full_rows: bool) -> frozenset[str]:
        """A twist is written in some of the forms only."""
        return frozenset() if self.twist == "none" else frozenset(("how", "upcast", "late"))

    def write(self, w: Writer, x: str) -> str:
        E = w.width
        values = w.values("weight", E, around=1.0)
        plain = self.twist == "none"
        if self.how == "module" and plain:
            made = f"nn.RMSNorm({E}, eps={self.eps}{'' if self.affine else ', elementwise_affine=False'})"
            return w.let(f"{w.attribute('norm', f'filled({made}, weight={values})' if self.affine else made)}({x})")
        weight = w.attribute("weight", f"nn.Parameter({values})") if self.affine else ""
        if self.how == "functional" and plain:
            return w.let(f"F.rms_norm({x}, ({E},), {weight or None}, {self.eps})")
        upcast = self.upcast and w.dtype != "float64"
        y = w.let(f"{x}.to(torch.float32)") if upcast else x
        axis = 1 if self.twist == "tokens" else -1
        squares = f"{y}.pow(2)" if self.how in ("rsqrt", "power") else f"{y} * {y}"
        squares = f"torch.square({y})" if self.how == "square" else squares
        reduction = "sum" if self.twist == "summed" else "mean"
        mean = f"({squares}).{reduction}({axis}, keepdim=True)"
        if self.how == "norm" and self.twist == "none":
            mean = f"{y}.norm(2, dim=-1, keepdim=True).pow(2) / {E}"
        v = w.let(mean, "v")
        if self.twist == "returned":
            w.extra.append(v)
        if self.twist == "eps_outside":
            y = w.let(f"{y} / ({v}.sqrt() + {self.eps})")
        elif self.how in ("divided", "norm"):
            y = w.let(f"{y} / ({v} + {self.eps}).sqrt()")
        elif self.how == "power":
            y = w.let(f"{y} * ({v} + {self.eps}) ** -0.5")
        else:
            y = w.let(f"{y} * torch.rsqrt({v} + {self.eps})")
        factor = f"(1.0 + {weight})" if self.twist == "one_plus" else weight
        if upcast and not (self.late and weight):
            y = w.let(f"{y}.to({x}.dtype)")
        if weight:
            y = w.let(f"{factor} * {y}" if self.swapped else f"{y} * {factor}")
        return w.let(f"{y}.to({x}.dtype)") if upcast and self.late and weight else y


@dataclass(frozen=True)
class Activation(Block):
    """An elementwise function, as a call or as its formula; ``twist`` makes the formula's constant a little wrong."""

    kind: str = one_of("relu", "gelu", "gelu_tanh", "silu", "quick_gelu", "tanh", "sigmoid", "squared_relu", "softplus")
    how: str = form("call", "formula", "other")
    twist: str = one_of("none", "constant", "returned", "operand")

    def settled(self, full_rows: bool) -> frozenset[str]:
        """A twist is written in some of the forms only."""
        return frozenset() if self.twist == "none" else frozenset(("how", "upcast", "late"))

    def write(self, w: Writer, x: str) -> str:
        call, formula, other = self._texts(w, x)
        if self.kind in ("gelu", "gelu_tanh", "quick_gelu", "silu") and self.twist != "none":
            return w.let(formula if self.how != "other" else other)
        return w.let({"call": call, "formula": formula, "other": other}[self.how])

    def _texts(self, w: Writer, x: str) -> tuple[str, str, str]:
        off = self.twist == "constant"
        second = f"({x} + 0.01)" if self.twist == "operand" else x
        if self.kind == "gelu":
            root = "1.41" if off else "math.sqrt(2.0)"
            inner = f"(1.0 + torch.erf({x} / {root}))"
            if self.twist == "returned":
                w.extra.append(inner := w.let(inner))
            other = f"0.5 * {second} * (1.0 + torch.erf({x} * {'0.7' if off else 0.7071067811865475}))"
            return f"F.gelu({x})", f"{second} * 0.5 * {inner}", other
        if self.kind == "gelu_tanh":
            cubic = 0.0447 if off else 0.044715
            inner = f"torch.tanh(math.sqrt(2.0 / math.pi) * ({x} + {cubic} * {x}.pow(3)))"
            if self.twist == "returned":
                w.extra.append(inner := w.let(inner))
            other = f"0.5 * {second} * (1 + torch.tanh({x} * 0.7978845608028654 * (1 + {cubic} * {x} * {x})))"
            return f'F.gelu({x}, approximate="tanh")', f"0.5 * {second} * (1.0 + {inner})", other
        if self.kind in ("silu", "quick_gelu"):
            factor = "1.702 * " if self.kind == "quick_gelu" else "1.01 * " if off else ""
            gate = f"torch.sigmoid({factor}{x})"
            if self.twist == "returned":
                w.extra.append(gate := w.let(gate))
            call = f"F.silu({x})" if self.kind == "silu" else f"{x} * torch.sigmoid(1.702 * {x})"
            return call, f"{second} * {gate}", f"{second} / (1 + torch.exp(-({factor}{x})))"
        return {
            "relu": (f"F.relu({x})", f"{x}.clamp(min=0)", f"torch.maximum({x}, torch.zeros_like({x}))"),
            "tanh": (f"torch.tanh({x})", f"{x}.tanh()", f"2 * torch.sigmoid(2 * {x}) - 1"),
            "sigmoid": (f"torch.sigmoid({x})", f"{x}.sigmoid()", f"1 / (1 + torch.exp(-{x}))"),
            "squared_relu": (f"F.relu({x}).pow(2)", f"F.relu({x}).square()", f"F.relu({x}) * F.relu({x})"),
            "softplus": (f"F.softplus({x})", f"torch.log1p(torch.exp({x}))", f"-F.logsigmoid(-{x})"),
        }[self.kind]


@dataclass(frozen=True)
class Projection(Choices):
    """How a linear is written, and what stands around it."""

    how: str = form("module", "functional", "matmul", "addmm", "einsum", "transposed", "baddbmm")
    bias: bool = one_of(True, False)
    before: str = one_of("nothing", "number", "vector", "shift", "one_element")
    after: str = one_of("nothing", "number", "vector", "shift", "one_element", "divided", "two_shifts", "batch_norm")
    low_rank: str = one_of("none", "modules", "matmul", "two")

    def write(self, w: Writer, name: str, x: str, columns: int, rows: int) -> str:
        """The lines of the linear named ``name`` from ``columns`` to ``rows``."""
        with w.inside(name):
            source = self._around(w, self.before, "before", x, columns)
            flat = self.after == "batch_norm" and self.how in ("module", "functional", "matmul")
            if flat:
                source = w.let(f"{source}.reshape(-1, {columns})")
            y = self._linear(w, source, columns, rows)
            if self.low_rank != "none":
                y = self._updated(w, source, y, columns, rows)
            y = self._around(w, self.after, "after", y, rows)
            return w.let(f"{y}.view({x}.shape[0], -1, {rows})") if flat else y

    def _linear(self, w: Writer, x: str, columns: int, rows: int) -> str:
        matrix, offset = w.matrix("linear", rows, columns), w.offset("linear", rows)
        if self.how == "module":
            return w.let(f"{w.linear('linear', columns, rows, self.bias)}({x})", "y")
        turned = self.how in ("transposed", "baddbmm")
        weight = w.attribute("weight", f"nn.Parameter({matrix}{'.t().contiguous()' if turned else ''})")
        bias = w.attribute("bias", f"nn.Parameter({offset})") if self.bias else ""
        if self.how == "functional":
            return w.let(f"F.linear({x}, {weight}, {bias or None})", "y")
        plain = {
            "matmul": f"{x} @ {weight}.t()",
            "einsum": f"torch.einsum('bsk,nk->bsn', {x}, {weight})",
            "transposed": f"torch.matmul({x}, {weight})",
            "baddbmm": f"torch.bmm({x}, {weight}.expand({x}.shape[0], {columns}, {rows}))",
            "addmm": f"torch.mm({x}.reshape(-1, {columns}), {weight}.t()).view({x}.shape[0], -1, {rows})",
        }[self.how]
        if self.how in ("addmm", "transposed") and bias:
            right = f"{weight}.t()" if self.how == "addmm" else weight
            flat = f"torch.addmm({bias}, {x}.reshape(-1, {columns}), {right})"
            return w.let(f"{flat}.view({x}.shape[0], {x}.shape[1], {rows})", "y")
        y = w.let(plain, "y")
        return w.let(f"{y} + {bias}", "y") if bias else y

    def _around(self, w: Writer, what: str, stem: str, x: str, size: int) -> str:
        if what == "vector":
            return w.let(f"{x} * {w.parameter(stem, size, around=1.0)}")
        if what == "shift":
            return w.let(f"{x} + {w.parameter(stem, size)}")
        if what == "one_element":
            return w.let(f"{x} * {w.buffer(stem, w.values(stem, 1, around=1.0))}")
        if what == "two_shifts":
            return w.let(f"{x} + {w.parameter(stem, size)} + {w.parameter(stem + '_too', size, scale=2.0)}")
        if what == "batch_norm":
            kind = f"filled(nn.BatchNorm1d({size}), weight={w.values('norm', size, around=1.0)}, "
            mean, variance = w.values("mean", size), w.values("variance", size, around=1.0, scale=0.1)
            norm = w.attribute("norm", f"{kind}running_mean={mean}, running_var={variance}.abs())")
            if self.how in ("module", "functional", "matmul"):
                return w.let(f"{norm}({x})")
            return w.let(f"{norm}({x}.reshape(-1, {size})).view({x}.shape[0], -1, {size})")
        texts = {"number": f"{x} * 0.7", "divided": f"{x} / 3.0"}
        return w.let(texts[what]) if what in texts else x

    def _updated(self, w: Writer, x: str, y: str, columns: int, rows: int) -> str:
        for n in range(2 if self.low_rank == "two" else 1):
            if self.low_rank == "matmul":
                down, up = w.parameter(f"down{n}", columns, 2), w.parameter(f"up{n}", 2, rows)
                y = w.let(f"{y} + ({x} @ {down} @ {up}) * 0.5", "y")
            else:
                down, up = w.linear(f"down{n}", columns, 2, False), w.linear(f"up{n}", 2, rows, False)
                y = w.let(f"{y} + {up}({down}({x})) * 2.0", "y")
        return y


@dataclass(frozen=True)
class Linear(Block):
    """One linear from E to E, or two one after the other."""

    projection: Projection = part(Projection)
    chained: str = one_of("none", "narrow", "wide", "tied")

    def write(self, w: Writer, x: str) -> str:
        E = w.width
        if self.chained == "none":
            return self.projection.write(w, "linear", x, E, E)
        if self.chained == "tied":
            made = w.linear("tied", E, E, True)
            return w.let(f"{made}({made}({x}))")
        inner = 2 if self.chained == "narrow" else 2 * E
        y = self.projection.write(w, "first", x, E, inner)
        return w.let(f"{w.linear('second', inner, E, self.projection.bias)}({y})")


@dataclass(frozen=True)
class FeedForward(Block):
    """Up, activation, and down; with gates, or with experts that tokens choose."""

    activation: Activation = part(Activation)
    gate: str = one_of("none", "gated", "glu")
    joined: str = form("separate", "chunk", "split")
    up: Projection = part(Projection)
    down: Projection = part(Projection)
    dropout: bool = form(False, True)

    def write(self, w: Writer, x: str) -> str:
        E, N = w.width, 2 * w.width
        if self.gate == "none":
            y = self._activated(w, self.up.write(w, "up", x, E, N))
        elif self.gate == "glu":
            y = w.let(f"F.glu({self.up.write(w, 'up', x, E, 2 * N)}, -1)")
        elif self.joined == "separate":
            gate, up = (w.let(f"{w.linear(n, E, N, self.up.bias)}({x})", n) for n in ("gate", "lift"))
            y = w.let(f"{self._activated(w, gate)} * {up}")
        else:
            weights = ", ".join(w.matrix(n, N, E) for n in ("gate", "lift"))
            biases = f", torch.cat([{w.offset('gate', N)}, {w.offset('lift', N)}])" if self.up.bias else ""
            joint = w.let(f"{w.attribute('joint', f'linear(torch.cat([{weights}]){biases})')}({x})")
            pieces = f"{joint}.chunk(2, -1)" if self.joined == "chunk" else f"{joint}.split({N}, dim=-1)"
            gate, up = (w.let(f"{pieces}[{i}]") for i in range(2))
            y = w.let(f"{self._activated(w, gate)} * {up}")
        if self.dropout:
            y = w.let(f"F.dropout({y}, 0.1, training=self.training)")
        return self.down.write(w, "down", y, N, E)

    def _activated(self, w: Writer, x: str) -> str:
        return self.activation.write(w, x)


@dataclass(frozen=True)
class Experts(Block):
    """A mixture of experts: all of them weighed, or the one that a token chooses."""

    how: str = one_of("weighed", "picked", "first")

    def write(self, w: Writer, x: str) -> str:
        E = w.width
        if self.how == "weighed":
            gates = w.let(f"{w.linear('router', E, 2, False)}({x}).softmax(-1)", "gates")
            experts = [f"{gates}[..., {i} : {i} + 1] * {w.linear(f'expert{i}', E, E, i == 0)}({x})" for i in range(2)]
            return w.let(" + ".join(experts))
        weights = w.parameter("experts", 3, E, E)
        flat = w.let(f"{x}.reshape(-1, {E})")
        expert = w.let(f"{flat}[:, :3].argmax(-1)", "expert")
        if self.how == "picked":
            y = w.let(f"({weights}[{expert}] @ {flat}.unsqueeze(-1)).squeeze(-1)")
        else:
            y = w.let(f"torch.bmm({flat}.unsqueeze(1), {weights}[{expert}]).squeeze(1)")
        return w.let(f"{y}.view({x}.shape)")


@dataclass(frozen=True)
class BatchNorm(Block):
    """Batch norm in eval mode over the features."""

    how: str = form("transposed", "flat", "functional", "formula")
    affine: bool = one_of(True, False)

    def write(self, w: Writer, x: str) -> str:
        E = w.width
        values = {"running_mean": w.values("mean", E), "running_var": f"{w.values('variance', E, around=1.0)}.abs()"}
        if self.affine:
            values |= {"weight": w.values("weight", E, around=1.0), "bias": w.values("bias", E)}
        if self.how in ("transposed", "flat"):
            options = "" if self.affine else ", affine=False"
            given = ", ".join(f"{n}={v}" for n, v in values.items())
            norm = w.attribute("norm", f"filled(nn.BatchNorm1d({E}{options}), {given})")
            if self.how == "flat":
                return w.let(f"{norm}({x}.flatten(0, 1)).view({x}.shape)")
            return w.let(f"{norm}({x}.transpose(1, 2)).transpose(1, 2)")
        kept = {n: w.buffer(n, v) for n, v in values.items()}
        mean, variance = kept["running_mean"], kept["running_var"]
        weight, bias = kept.get("weight", ""), kept.get("bias", "")
        if self.how == "functional":
            call = f"F.batch_norm({x}.transpose(1, 2), {mean}, {variance}, {weight or None}, {bias or None}, eps=1e-5)"
            return w.let(f"{call}.transpose(1, 2)")
        y = w.let(f"({x} - {mean}) / torch.sqrt({variance} + 1e-5)")
        return w.let(f"{y} * {weight} + {bias}") if self.affine else y
