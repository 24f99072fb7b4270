"""Our Triton kernels on the device: the operators' definitions, in sizes of models."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from tests.backends.kernels.gpu_cases import CASES, Attention, larger, operator_of
from tests.cuda import ON_GPU

pytestmark = ON_GPU


@pytest.mark.parametrize("case", [*CASES, *larger()], ids=str)
def test_numbers(case: Any) -> None:
    from txgraph.backends.kernels.gpu import attention, linears

    case.check(operator_of(case, attention, linears), "cuda")


def test_what_is_not_finite_stays_in_its_sequence() -> None:
    from txgraph.backends.kernels.gpu.attention import ragged_attention_triton

    q = torch.randn(40, 2, 64, device="cuda", dtype=torch.float16)
    q[:20] = torch.nan
    row = torch.arange(2, device="cuda").repeat_interleave(20)
    position, lengths = torch.arange(20, device="cuda").repeat(2), torch.full((2,), 20, device="cuda")
    result = ragged_attention_triton(q, q, q, row, position, lengths, None, False, None)
    assert result[:20].isnan().all()
    assert result[20:].isfinite().all()


def test_beyond_32_bits() -> None:
    """Tokens whose place in memory has no room in 32 bits."""
    case = Attention(torch.float16, lengths=(300, 20), H=1, G=1, D=64, Dv=64)
    from txgraph.backends.kernels.gpu.attention import ragged_attention_triton

    def far_apart(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, *rest: Any) -> torch.Tensor:
        wide = torch.empty(320, 1, 8 << 20, device="cuda", dtype=torch.float16)
        wide[..., :64] = q
        return ragged_attention_triton(wide[..., :64], k, v, *rest)  # type: ignore[no-any-return]

    if torch.cuda.mem_get_info()[0] < 8 << 30:
        pytest.skip("less than 8 GiB of memory are free")
    case.check(far_apart, "cuda")
