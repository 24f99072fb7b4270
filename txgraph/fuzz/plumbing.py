"""What stands between the parts of a model: views, casts, constants, identities, repetitions and in-place writes."""

from __future__ import annotations

from dataclasses import dataclass

from txgraph.fuzz.block import Block
from txgraph.fuzz.choices import form, one_of
from txgraph.fuzz.source import Writer


@dataclass(frozen=True)
class Identity(Block):
    """Something that gives back its input, by views, arithmetic or copies."""

    how: str = form(
        "{x} + 0.0",
        "{x} * 1.0",
        "{x} - 0",
        "{x} / 1",
        "--{x}",
        "{x} ** 1",
        "{x}.clone()",
        "{x}.contiguous()",
        "{x}.to({x}.dtype)",
        "F.dropout({x}, 0.3, training=False)",
        "{x}.detach()",
        "{x} * torch.ones(({E},), dtype={x}.dtype)",
        "{x} + torch.zeros_like({x})",
        "torch.where(torch.ones(1, dtype=torch.bool), {x}, {x} * 2)",
        "{x}.transpose(1, 2).transpose(1, 2)",
        "{x}.transpose(0, 1).contiguous().transpose(0, 1)",
        "{x}.permute(2, 0, 1).permute(1, 2, 0)",
        "{x}.reshape(-1, {E}).reshape({x}.shape)",
        "{x}.view({x}.shape[0], -1, 2, {h}).flatten(2)",
        "{x}.reshape({x}.shape[0], -1, 2, {h}).transpose(2, 3).transpose(3, 2).reshape({x}.shape)",
        "{x}.unsqueeze(1).expand(-1, 2, -1, -1)[:, 1]",
        "{x}.unsqueeze(0).squeeze(0)",
        "{x}.flatten(0, 1).unflatten(0, ({x}.shape[0], -1))",
        "torch.cat({x}.chunk(2, -1), -1)",
        "torch.cat([{x}[..., :3], {x}[..., 3:]], -1)",
        "torch.cat([{x}[..., :-3], {x}[..., -3:]], dim=2)",
        "torch.stack([{x}[..., ::2], {x}[..., 1::2]], -1).flatten(-2)",
        "torch.stack({x}.unbind(-1), -1)",
        "torch.stack([{x}, {x}]).mean(0)",
        "torch.cat([{x}, {x}], 0)[{x}.shape[0] :]",
        "torch.cat([{x}, {x}], 1)[:, : {x}.shape[1]]",
        "torch.cat([{x}[:, :0], {x}], 1)",
        "{x}.flip(-1).flip(-1)",
        "{x}.roll(2, -1).roll(-2, -1)",
        "{x}[:, torch.arange({x}.shape[1])]",
        "torch.index_select({x}, 2, torch.arange({E}))",
        "{x}.movedim(-1, 0).movedim(0, -1)",
        "{x}.swapaxes(0, 2).swapdims(0, 2)",
        "F.pad({x}, (0, 1))[..., :-1]",
        "{x}.repeat(1, 1, 2)[..., :{E}]",
        "{x}.double().to({x}.dtype)",
        "{x}.as_strided({x}.shape, {x}.stride()) if {x}.is_contiguous() else {x}",
        "torch.einsum('bse->ebs', {x}).permute(1, 2, 0)",
        "{x}[None].sum(0)",
    )

    def write(self, w: Writer, x: str) -> str:
        """One line."""
        return w.let(self.how.format(x=x, E=w.width, h=w.width // 2))


@dataclass(frozen=True)
class Arithmetic(Block):
    """Constants, casts, reductions, selections and repetitions that change the values."""

    how: str = one_of(
        "{x} * 2.0",
        "({x} + 0.5) + 0.25",
        "({x} * 3.0) * 0.25",
        "({x} + {a}) + {b}",
        "({x} * {a}) * {b}",
        "{x} + {a} * 2.0 + torch.arange({E}, dtype={x}.dtype) * 0.1",
        "{x} * torch.linspace(0.5, 1.5, {E}).to({x}.dtype)",
        "{x} + torch.sin(torch.arange({x}.shape[1]))[:, None].to({x}.dtype)",
        "{x} - ({a} - {a}) + 0.125",
        "2.0 - {x}",
        "1.0 / ({x} * {x} + 1.0)",
        "{x} / {a}.abs().clamp(min=0.5)",
        "torch.addcmul({x}, {a}, {b}, value=0.5)",
        "torch.lerp({x}, {x} * 0.5, 0.3)",
        "torch.rsub({x}, 1.0, alpha=2.0)",
        "torch.add({x}, {a}, alpha=0.5)",
        "torch.sub({x}, {a}, alpha=2)",
        "torch.tanh({x}) + torch.tanh({x})",
        "torch.sigmoid({x}) * {x} - torch.sigmoid({x})",
        "{x} + {x}.mean(1, keepdim=True)",
        "{x} - {x}.mean(-1, keepdim=True)",
        "{x} - {x}.amax(1, keepdim=True)",
        "{x} * {x}[:, :1]",
        "{x} + {x}[:, -1:]",
        "{x} + {x}[:1]",
        "{x}[:, torch.arange({x}.shape[1] - 1, -1, -1)] * 0.5 + {x}",
        "{x}.flip(1)",
        "{x}.roll(1, 1)",
        "{x}.roll(3, -1) + {x}",
        "torch.cat([{x}[..., {h}:], {x}[..., :{h}]], -1)",
        "torch.cat([-{x}[..., 1::2], {x}[..., ::2]], -1)",
        "{x}.reshape({x}.shape[0], {x}.shape[1], 2, {h}).transpose(2, 3).reshape({x}.shape)",
        "{x}.transpose(1, 2).reshape({x}.shape)",
        "{x}.cumsum(1)",
        "F.pad({x}, (0, 0, 1, 0))[:, :-1]",
        "{x}.sort(-1)[0]",
        "{x}.half().to({x}.dtype)",
        "{x}.to(torch.bfloat16).to({x}.dtype)",
        "{x}.float().exp().to({x}.dtype).log1p()",
        "{x}.clamp(-1, 1)",
        "torch.where({x} > 0, {x}, {x} * 0.1)",
        "{x} * ({x} > 0).to({x}.dtype)",
        "{x}.abs() ** 0.5",
        "{x} ** 2",
        "{x}.pow(3) * 0.1",
        "({x} * {x} + 0.1) ** -0.5",
        "{x} / torch.sqrt({x} * {x} + 1.0)",
        "1 / torch.sqrt({x}.abs() + 0.5)",
        "{x}.softmax(-1)",
        "{x}.softmax(1)",
        "F.log_softmax({x}, -1)",
        "F.normalize({x}, dim=-1)",
        "torch.exp({x} - {x}.max(-1, keepdim=True)[0]) / torch.exp({x} - {x}.max(-1, keepdim=True)[0]).sum(-1, True)",
        "{x} @ ({x}.transpose(1, 2) @ {x})",
        "({x} @ {x}.transpose(1, 2)) @ {x} * 0.1",
        "torch.baddbmm({x}, {x}, {x}.transpose(1, 2) @ {x}, beta=0.5, alpha=0.1)",
        "{x} @ ({m} @ {n})",
        "({x} @ {m}) @ {n}",
        "F.linear({x}, {m} @ {n})",
        "torch.stack([{x}, {x} * 2]).sum(0)",
        "torch.maximum({x}, {a})",
        "{x}.masked_fill({x} < -1, 0.0)",
        "{x} * seen[..., None].to({x}.dtype)",
        "{x}.masked_fill(~seen[..., None], 0.0)",
        "torch.where(seen[:, :, None], {x}, {a})",
        "{x} * torch.tril(torch.ones({x}.shape[1], {x}.shape[1], dtype={x}.dtype)).sum(-1)[:, None]",
        "torch.gather({x}, 2, torch.zeros(1, 1, 1, dtype=torch.long).expand({x}.shape))",
        "{x}.index_select(2, torch.tensor({reversed}))",
        "{x} + {x}.view(-1)[0]",
        "{x} * {x}.shape[1] / {x}.shape[0]",
    )

    def write(self, w: Writer, x: str) -> str:
        """One line; for what is not there, the simplest."""
        how = self.how if "seen" not in self.how or w.mask != "none" else "{x} * 2.0"
        E = w.width
        names = {n: w.parameter(n, E, around=0.5) for n in "ab" if f"{{{n}}}" in how}
        names |= {n: w.parameter(n, E, E) for n in "mn" if f"{{{n}}}" in how}
        return w.let(how.format(x=x, E=E, h=E // 2, reversed=list(range(E))[::-1], **names))


@dataclass(frozen=True)
class InPlace(Block):
    """Writes in place: to a new value, through views of it, and to buffers."""

    how: str = one_of(
        "y.add_(1.0)",
        "y.mul_(0.5)",
        "y += {x}",
        "y.relu_()",
        "y.masked_fill_(y > 1, 0.5)",
        "y[:, 0] = 0.0",
        "y[:, -1] += 1",
        "y[..., 1:3] *= 2",
        "y[..., ::2] = y[..., 1::2]",
        "y[:, :, 0].copy_(y[:, :, 1])",
        "y.transpose(1, 2).add_(1)",
        "y.view(-1, {E})[0] = 1.0",
        "y.view(-1, {E}).mul_(2)",
        "z = y[..., :2]; y.add_(1); y = y * z.sum(-1, keepdim=True)",
        "z = y.transpose(1, 2); z[:, 0].zero_(); y = y + z.transpose(1, 2)",
        "z = y.chunk(2, -1)[1]; z.mul_(0.5)",
        "z = y.clone(); y.sub_(1); y = y * z",
        "z = y * 2; z[:, 0] = y[:, 0]; y = z",
        "z = y.view(-1, 2, {h}); z[:, 1] = 0; y = y * 2",
        "y[torch.arange(y.shape[0]), 0] = 2.0",
        "y[y > 1] = 0.0",
        "y.fill_(0.5).add_({x})",
        "y.clamp_(min=-0.5)",
        "y = torch.zeros_like(y); y[:, ::2] = {x}[:, ::2]",
        "y = torch.empty_like(y).copy_({x})",
        "y.unsqueeze(1)[:, 0].exp_()",
        "{counter}.add_(1); y = y * {counter}",
        "y = y * {counter}; {counter}.mul_(2)",
        "{counter}.copy_(y.mean()); y = y - {counter}",
        "{history}.mul_(0.9).add_(y.mean((0, 1)) * 0.1); y = y - {history}",
        "{history}[1:3] = y[0, 0, 1:3]; y = y + {history}",
        "{history}.view(2, -1)[0].add_(1); y = y * {history}",
        "{steps} += 1; y = y / {steps}",
    )
    copied: str = one_of("clone", "new", "activation", "same")

    def write(self, w: Writer, x: str) -> str:
        """The statements, on a copy named y."""
        buffers = {"counter": "torch.ones(1)", "history": f"torch.ones({w.width})", "steps": "torch.tensor(2)"}
        names = {n: w.buffer(n, v, written=True) for n, v in buffers.items() if f"{{{n}}}" in self.how}
        copies = {"clone": f"{x}.clone()", "new": f"({x} * 1.5)", "activation": f"torch.tanh({x})"}
        if "view(" in self.how:  # behind a batch norm values lie transposed, and so do their copies
            copies = {name: f"{copy}.contiguous()" for name, copy in copies.items()}
        copies["same"] = x
        w.do(f"y = {copies[self.copied]}")
        for statement in self.how.format(x=x, E=w.width, h=w.width // 2, **names).split("; "):
            w.do(statement)
        return w.let("y")


@dataclass(frozen=True)
class Unused(Block):
    """A value that nobody needs, or one computed twice."""

    how: str = one_of("unused", "twice", "twice_apart", "asserted_size")

    def write(self, w: Writer, x: str) -> str:
        """The lines, with linears where they matter."""
        if self.how == "unused":
            w.let(f"torch.exp({w.linear('unused', w.width, w.width, True)}({x}))", "unused")
            return x
        if self.how == "asserted_size":
            w.do(f"assert {x}.shape[-1] == {w.width}")
            return x
        made = w.linear("linear", w.width, w.width, True)
        if self.how == "twice":
            return w.let(f"{made}({x}) + torch.tanh({made}({x}))")
        other = w.linear("other", w.width, w.width, False)
        first, second = w.let(f"{made}({x})"), w.let(f"{other}({x})")
        return w.let(f"{first} * torch.sigmoid({second}) + {other}({x})")
