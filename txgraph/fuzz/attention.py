"""Attention in the forms in which people write it."""

from __future__ import annotations

from dataclasses import dataclass, replace

from txgraph.fuzz.block import Block
from txgraph.fuzz.choices import form, one_of
from txgraph.fuzz.source import Writer

_SCALES = {"usual": None, "one": 1.0, "odd": 0.3, "negative": -0.7}


@dataclass(frozen=True)
class Attention(Block):
    """Scaled dot product attention over the tokens, or over a second input.

    Fields made by ``form`` give the same values, as long as no query has all of its keys hidden.
    """

    call: str = form("sdpa", "method", "functional", "safe", "safe_max", "float32", "upcast", "unsafe", "logsumexp")
    style: str = form("heads", "flat", "loop", "einsum", "permuted")
    product: str = form("matmul", "einsum", "bmm", "baddbmm")
    projection: str = form("separate", "split", "chunk", "view", "key_value", "functional")
    scaled: str = form("scores", "divided", "q", "k", "both", "q_divided")
    scale: str = one_of("usual", "one", "odd", "negative", "parameter", "each_head")
    source: str = one_of("self", "cross")
    causal: bool = one_of(False, True)
    triangle: str = form("is_causal", "tril", "triu", "arange", "buffer")
    window: int = one_of(0, 2)
    padding: bool = one_of(False, True)
    combined: str = form("and", "each")
    fill: str = form("inf", "min", "where", "add_inf", "add_min")
    soft: str = one_of("hidden", "number", "multiplied", "after")
    bias: str = one_of("none", "alibi", "relative", "parameter", "distance")
    expanded: bool = form(False, True)
    groups: str = one_of("none", "some", "one")
    repeat: str = form("interleave", "expand", "index", "gqa")
    tiled: bool = one_of(False, True)
    softcap: float = one_of(0.0, 5.0)
    rotary: str = one_of("none", "half", "pairs")
    biased: bool = one_of(True, False)
    merged: str = form("reshape", "contiguous", "flatten", "einsum")
    out: bool = one_of(True, False)
    dropout: bool = form(False, True)
    twist: str = one_of("none", "axis", "shared", "returned", "swapped", "nan_to_num", "squared")

    def settled(self, full_rows: bool) -> frozenset[str]:
        """Forms differ where all keys are hidden; hidden keys differ from very small scores."""
        if full_rows or (self.window and self.padding) or self.soft != "hidden":
            return frozenset(("call", "fill", "combined", "triangle", "scaled", "style"))
        # Head by head, each has probabilities of its own.
        return frozenset(("style",)) if self.twist == "returned" else frozenset()

    def write(self, w: Writer, x: str) -> str:
        """Query, key and value; heads; scores and masks; the heads' results side by side."""
        E, H = w.width, w.heads
        D = E // H
        G = {"none": H, "some": max(H // 2, 1), "one": 1}[self.groups]
        cross = self.source == "cross" and w.memory
        B, S = w.let(f"{x}.shape[0]", "B"), w.let(f"{x}.shape[1]", "S")
        T = w.let("memory.shape[1]", "T") if cross else S
        q, k, v = self._projections(w, x, "memory" if cross else x, (B, S), G)
        q, k, v = self._heads(w, q, H, D), self._heads(w, k, G, D), self._heads(w, v, G, D)
        if self.rotary != "none":
            q, k = self._rotated(w, q, D, S), self._rotated(w, k, D, T)
        if self.twist == "shared":
            v = k
        grouped = self.repeat == "gqa" and self.call == "sdpa" and self.style == "heads" and self._one_call(cross)
        if G < H and not grouped:
            k, v = (self._repeated(w, t, H, G, (B, D)) for t in (k, v))
        hidden = self._masks(w, cross, S, T)
        bias = self._bias(w, S, T)
        if self._one_call(cross):
            y = self._sdpa(w, (q, k, v), (B, S, T), hidden, bias, grouped)
        elif self.style == "loop":
            y = self._head_by_head(w, (q, k, v), (B, S, T), hidden, bias)
        else:
            y = self._by_hand(w, (q, k, v), (B, S, T), hidden, bias)
        y = y if self.style == "loop" else w.let(self._merge(y, B, S, E))
        return w.let(f"{w.linear('out', E, E, self.biased)}({y})") if self.out else y

    def _one_call(self, cross: bool) -> bool:
        """Whether one call of torch's operator says it all."""
        return (
            self.call == "sdpa"
            and not self.softcap
            and self.soft == "hidden"
            and self.twist in ("none", "shared")
            and self.scale not in ("parameter", "each_head")
        )

    def _projections(self, w: Writer, x: str, source: str, sizes: tuple[str, str], G: int) -> tuple[str, str, str]:
        E, D = w.width, w.width // w.heads
        rows = {"q": E, "k": G * D, "v": G * D}
        joint = "qkv" if source == x else "kv"
        how = self.projection
        if how == "key_value":
            joint = "kv"
        if how in ("separate", "functional") or (how == "view" and joint != "qkv"):
            return tuple(  # type: ignore[return-value]  # three of them
                w.let(self._projection(w, n, source if n in "kv" else x, rows[n]), n) for n in "qkv"
            )
        first = [] if joint == "qkv" else [w.let(self._projection(w, "q", x, E), "q")]
        weights = ", ".join(w.matrix(n, rows[n], E) for n in joint)
        biases = f", torch.cat([{', '.join(w.offset(n, rows[n]) for n in joint)}])" if self.biased else ""
        made = w.attribute("joint", f"linear(torch.cat([{weights}]){biases})")
        y = w.let(f"{made}({source})", "joint")
        if how == "view" and w.heads == G:
            q, k, v = (w.let(f"{y}.view({', '.join(sizes)}, 3, {E}).unbind(2)[{i}]", "qkv"[i]) for i in range(3))
            return q, k, v
        equal = joint == "kv" or w.heads == G
        pieces = f"chunk({len(joint)}, -1)" if how != "split" and equal else f"split({[rows[n] for n in joint]}, -1)"
        names = [w.let(f"{y}.{pieces}[{i}]", n) for i, n in enumerate(joint)]
        q, k, v = first + names
        return q, k, v

    def _projection(self, w: Writer, name: str, x: str, rows: int) -> str:
        if self.projection == "functional":
            weight = w.attribute(f"{name}_weight", f"nn.Parameter({w.matrix(name, rows, w.width)})")
            bias = w.attribute(f"{name}_bias", f"nn.Parameter({w.offset(name, rows)})") if self.biased else "None"
            return f"F.linear({x}, {weight}, {bias})"
        return f"{w.linear(name, w.width, rows, self.biased)}({x})"

    def _heads(self, w: Writer, t: str, heads: int, D: int) -> str:
        """[B, heads, S, D]."""
        if self.style == "loop":
            return w.let(f"torch.stack([{t}[:, :, h * {D} : (h + 1) * {D}] for h in range({heads})], 1)")
        if self.style == "permuted":
            return w.let(f"{t}.reshape({t}.shape[0], -1, {heads}, {D}).permute(0, 2, 1, 3)")
        if self.style == "flat":
            return w.let(f"torch.stack({t}.chunk({heads}, -1), 1)" if heads > 1 else f"{t}.unsqueeze(1)")
        return w.let(f"{t}.view({t}.shape[0], -1, {heads}, {D}).transpose(1, 2)")

    def _rotated(self, w: Writer, t: str, D: int, S: str) -> str:
        if D % 2:
            return t
        half = D // 2
        angle = w.let(
            f"torch.arange({S}, dtype=torch.float32)[:, None] * 0.5 ** torch.arange({half}, dtype=torch.float32)"
        )
        if self.rotary == "half":
            cos, sin = (w.let(f"torch.cat([{angle}, {angle}], -1).{f}().to({t}.dtype)") for f in ("cos", "sin"))
            turned = f"torch.cat([-{t}[..., {half}:], {t}[..., :{half}]], -1)"
        else:
            cos, sin = (w.let(f"{angle}.repeat_interleave(2, -1).{f}().to({t}.dtype)") for f in ("cos", "sin"))
            turned = f"torch.stack([-{t}[..., 1::2], {t}[..., ::2]], -1).flatten(-2)"
        return w.let(f"{t} * {cos} + {turned} * {sin}")

    def _repeated(self, w: Writer, t: str, H: int, G: int, sizes: tuple[str, int]) -> str:
        B, D = sizes
        n = H // G
        if self.tiled:
            return w.let(f"{t}.repeat(1, {n}, 1, 1)")
        if self.repeat == "expand":
            return w.let(f"{t}[:, :, None].expand({B}, {G}, {n}, {t}.shape[2], {D}).reshape({B}, {H}, -1, {D})")
        if self.repeat == "index":
            return w.let(f"{t}[:, {[i // n for i in range(H)]}]")
        return w.let(f"{t}.repeat_interleave({n}, dim=1)")

    def _masks(self, w: Writer, cross: bool, S: str, T: str) -> list[str]:
        """Which keys are seen, booleans that broadcast to [B, H, S, T]; ``"is_causal"`` where an argument says it."""
        seen = []
        if self.causal:
            ones = f"torch.ones({S}, {T}, dtype=torch.bool)"
            rows, columns = f"torch.arange({S})[:, None]", f"torch.arange({T})[None, :]"
            seen.append(
                {
                    "is_causal": "is_causal",
                    "tril": f"torch.tril({ones})",
                    "triu": f"~torch.triu({ones}, diagonal=1)",
                    "arange": f"{rows} >= {columns}",
                    "buffer": f"{w.buffer('tril', 'torch.tril(torch.ones(16, 16))')}[:{S}, :{T}] != 0"
                    if self.triangle == "buffer"
                    else "",
                }[self.triangle]
            )
            alone = not self.window and not (self.padding and w.mask != "none") and self.bias == "none"
            if self.triangle == "is_causal" and not (self._one_call(cross) and alone):
                seen[-1] = f"torch.tril({ones})"
        if self.window:
            seen.append(f"(torch.arange({S})[:, None] - torch.arange({T})[None, :]).abs() < {self.window}")
        if self.padding and w.mask != "none" and not cross:
            seen.append("seen[:, None, None, :]")
        seen = [s if s == "is_causal" else w.let(s, "seen") for s in seen]
        if len(seen) > 1 and (self.combined == "and" or self._one_call(cross)):
            seen = [w.let(" & ".join(seen), "seen")]
        return seen

    def _bias(self, w: Writer, S: str, T: str) -> str:
        """What is added to the scores, broadcast to [1, H, S, T]; an empty text if there is nothing."""
        H = w.heads
        apart = f"(torch.arange({T})[None, :] - torch.arange({S})[:, None])"
        if self.bias == "alibi":
            slopes = f"torch.tensor({[2.0**-i for i in range(1, H + 1)]}, dtype=DTYPE)"
            return w.let(f"{slopes}[:, None, None] * torch.arange({T})[None, None, :].to(DTYPE)", "bias")
        if self.bias == "relative":
            table = w.attribute("table", f"filled(nn.Embedding(5, {H}), weight={w.values('table', 5, H)})")
            return w.let(f"{table}({apart}.clamp(-2, 2) + 2).permute(2, 0, 1)[None]", "bias")
        if self.bias == "parameter":
            return w.let(f"{w.parameter('table', 1, H, 1, 16)}[..., :{T}]", "bias")
        if self.bias == "distance":
            return w.let(f"-0.5 * {apart}.abs().to(DTYPE)", "bias")
        return ""

    def _scale(self, w: Writer) -> tuple[str, float]:
        """The factor of the scores, as text and, where it is a number, its value."""
        if self.scale in ("parameter", "each_head"):
            shape = () if self.scale == "parameter" else (w.heads, 1, 1)
            return w.attribute("factor", f"nn.Parameter({w.values('factor', *(shape or (1,)), around=0.5)})"), 0.0
        value = _SCALES[self.scale]
        number = (w.width // w.heads) ** -0.5 if value is None else value
        return repr(number), number

    def _sdpa(
        self,
        w: Writer,
        qkv: tuple[str, str, str],
        sizes: tuple[str, str, str],
        hidden: list[str],
        bias: str,
        grouped: bool,
    ) -> str:
        B, S, T = sizes
        options = "" if self.scale == "usual" and self.scaled != "q" else f", scale={self._scale(w)[0]}"
        options += ", enable_gqa=True" if grouped else ""
        mask = ""
        if hidden == ["is_causal"]:
            options += ", is_causal=True"
        elif hidden and (bias or self.fill in ("min", "add_inf", "add_min")):
            lowest = "torch.finfo(DTYPE).min" if self.fill in ("min", "add_min") else "-math.inf"
            filled = f"torch.zeros({S}, {T}, dtype=DTYPE).masked_fill(~{hidden[0]}, {lowest})"
            mask = w.let(f"torch.where({hidden[0]}, {bias}, {lowest})" if bias else filled, "mask")
        else:
            mask = bias or (hidden[0] if hidden else "")
        if mask and self.expanded:
            mask = w.let(f"{mask}.expand({B}, {w.heads}, {S}, {T})", "mask")
        q, k, v = qkv
        H, D = w.heads, w.width // w.heads
        if self.style == "flat":
            q, k, v = (w.let(f"{t}.reshape({B} * {H}, -1, {D})") for t in (q, k, v))
            mask = mask and w.let(f"{mask}.expand({B}, {H}, {S}, {T}).reshape({B} * {H}, {S}, {T})", "mask")
            y = w.let(f"F.scaled_dot_product_attention({q}, {k}, {v}{', ' + mask if mask else ''}{options})")
            return w.let(f"{y}.view({B}, {H}, -1, {D})")
        if self.style == "loop":
            full = mask and w.let(f"{mask}.expand({B}, {H}, {S}, {T})", "mask")
            heads = [
                f"F.scaled_dot_product_attention({q}[:, {h}], {k}[:, {h}], {v}[:, {h}]"
                f"{f', {full}[:, {h}]' if full else ''}{options})"
                for h in range(H)
            ]
            return w.let(f"torch.cat([{', '.join(heads)}], -1)")
        return w.let(f"F.scaled_dot_product_attention({q}, {k}, {v}{', ' + mask if mask else ''}{options})")

    def _head_by_head(
        self, w: Writer, qkv: tuple[str, str, str], sizes: tuple[str, str, str], hidden: list[str], bias: str
    ) -> str:
        """[B, S, E]: each head computed by itself, with values of three axes."""
        full = f"({sizes[0]}, {w.heads}, {sizes[1]}, {sizes[2]})"
        text, number = self._scale(w)
        one = replace(self, product="matmul")
        heads = []
        for h in range(w.heads):
            head = (w.let(f"{qkv[0]}[:, {h}]", "q"), w.let(f"{qkv[1]}[:, {h}]", "k"), w.let(f"{qkv[2]}[:, {h}]", "v"))
            seen = [w.let(f"{s}.expand{full}[:, {h}]", "seen") if self.padding else s for s in hidden]
            added = bias and w.let(f"{bias}.expand{full}[:, {h}]", "bias")
            scale = (f"{text}[{h}]" if self.scale == "each_head" else text, number)
            heads.append(one._by_hand(w, head, sizes, seen, added, scale))
        return w.let(f"torch.cat([{', '.join(heads)}], -1)")

    def _by_hand(
        self,
        w: Writer,
        qkv: tuple[str, str, str],
        sizes: tuple[str, str, str],
        hidden: list[str],
        bias: str,
        scale: tuple[str, float] | None = None,
    ) -> str:
        q, k, v = qkv
        B, S, T = sizes
        H, D = w.heads, w.width // w.heads
        text, number = scale or self._scale(w)
        scaled = self.scaled
        if not number or (scaled == "both" and number < 0):
            scaled = "scores"
        root = repr(abs(number) ** 0.5)
        if scaled in ("q", "q_divided", "both"):
            q = w.let({"q": f"{q} * {text}", "q_divided": f"{q} / {1 / number!r}", "both": f"{q} * {root}"}[scaled])
        if scaled in ("k", "both"):
            k = w.let(f"{k} * {text}" if scaled == "k" else f"{k} * {root}")
        if self.twist == "swapped" and T == S:
            q, k = k, q
        s = self._scores(w, q, k, sizes)
        if scaled in ("scores", "divided"):
            s = w.let(f"{s} * {text}" if scaled == "scores" else f"{s} / {1 / number!r}", "s")
        if self.softcap:
            s = w.let(f"{self.softcap} * torch.tanh({s} / {self.softcap})", "s")
        if bias:
            s = w.let(f"{s} + {bias}", "s")
        for seen in hidden:
            s = w.let(self._filled(w, s, seen), "s")
        p = self._softmax(w, s)
        if self.soft == "after":
            for seen in hidden:
                p = w.let(f"{p} * {seen}.to({p}.dtype)", "p")
        if self.twist == "nan_to_num":
            p = w.let(f"torch.nan_to_num({p})", "p")
        if self.twist == "squared":
            p = w.let(f"{p} * {p}", "p")
        if self.dropout:
            p = w.let(f"F.dropout({p}, 0.2, training=self.training)", "p")
        if self.twist == "returned":
            w.extra.append(p)
        if self.product == "einsum" or self.style == "einsum":
            return w.let(f"torch.einsum('bhij,bhjd->bhid', {p}, {v})")
        if self.product in ("bmm", "baddbmm"):
            y = w.let(f"torch.bmm({p}.reshape(-1, {S}, {T}), {v}.reshape(-1, {T}, {D}))")
            return w.let(f"{y}.view({B}, {H}, {S}, {D})")
        return w.let(f"{p} @ {v}")

    def _scores(self, w: Writer, q: str, k: str, sizes: tuple[str, str, str]) -> str:
        B, S, T = sizes
        H, D = w.heads, w.width // w.heads
        if self.style == "einsum":
            q, k = (w.let(f"{t}.transpose(1, 2)") for t in (q, k))
            return w.let(f"torch.einsum('bihd,bjhd->bhij', {q}, {k})", "s")
        if self.product == "einsum":
            return w.let(f"torch.einsum('bhid,bhjd->bhij', {q}, {k})", "s")
        if self.product in ("bmm", "baddbmm"):
            left, right = f"{q}.reshape(-1, {S}, {D})", f"{k}.reshape(-1, {T}, {D}).transpose(1, 2)"
            if self.product == "bmm":
                s = w.let(f"torch.bmm({left}, {right})", "s")
            else:
                zeros = f"torch.zeros({B} * {H}, {S}, {T}, dtype=DTYPE)"
                s = w.let(f"torch.baddbmm({zeros}, {left}, {right}, beta=0.5, alpha=1.0)", "s")
            return w.let(f"{s}.view({B}, {H}, {S}, {T})", "s")
        return w.let(f"{q} @ {k}.transpose(-2, -1)" if self.style != "permuted" else f"{q} @ {k}.permute(0, 1, 3, 2)")

    def _filled(self, w: Writer, s: str, seen: str) -> str:
        lowest = f"torch.finfo({s}.dtype).min"
        if self.soft == "number":
            return f"{s} + (1.0 - {seen}.to({s}.dtype)) * -1e4"
        if self.soft == "multiplied":
            return f"{s} * {seen}.to({s}.dtype) - 1e4 * (1.0 - {seen}.to({s}.dtype))"
        if self.soft == "after":
            return s
        return {
            "inf": f"{s}.masked_fill(~{seen}, -math.inf)",
            "min": f"{s}.masked_fill(~{seen}, {lowest})",
            "where": f"torch.where({seen}, {s}, -math.inf)",
            "add_inf": f"{s} + torch.zeros_like({seen}, dtype={s}.dtype).masked_fill(~{seen}, -math.inf)",
            "add_min": f"{s} + (1.0 - {seen}.to({s}.dtype)) * {lowest}",
        }[self.fill]

    def _softmax(self, w: Writer, s: str) -> str:
        axis = -2 if self.twist == "axis" else -1
        if self.call in ("safe", "safe_max"):
            top = f"{s}.amax({axis}, keepdim=True)" if self.call == "safe" else f"{s}.max({axis}, keepdim=True)[0]"
            e = w.let(f"({s} - {top}).exp()", "e")
            return w.let(f"{e} / {e}.sum({axis}, keepdim=True)", "p")
        if self.call == "unsafe":
            e = w.let(f"torch.exp({s})", "e")
            return w.let(f"{e} / {e}.sum({axis}, keepdim=True)", "p")
        call = "method" if w.dtype == "float64" and self.call in ("float32", "upcast") else self.call
        return w.let(
            {
                "method": f"{s}.softmax({axis})",
                "float32": f"F.softmax({s}, dim={axis}, dtype=torch.float32).to({s}.dtype)",
                "upcast": f"{s}.float().softmax({axis}).to({s}.dtype)",
                "logsumexp": f"torch.exp({s} - torch.logsumexp({s}, {axis}, keepdim=True))",
            }.get(call, f"F.softmax({s}, dim={axis})"),
            "p",
        )

    def _merge(self, y: str, B: str, S: str, E: int) -> str:
        if self.merged == "contiguous":
            return f"{y}.transpose(1, 2).contiguous().view({B}, {S}, {E})"
        if self.merged == "flatten":
            return f"{y}.permute(0, 2, 1, 3).flatten(2)"
        if self.merged == "einsum":
            return f"torch.einsum('bhsd->bshd', {y}).reshape({B}, {S}, {E})"
        return f"{y}.transpose(1, 2).reshape({B}, {S}, {E})"
