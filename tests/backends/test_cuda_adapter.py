"""Tells when a private name of torch or Triton that is answered for a missing GPU moves, or changes its form."""

from __future__ import annotations

import inspect

import pytest
import torch

from txgraph.backends.gpus import GPUS
from txgraph.backends.inductor import cuda_adapter

pytestmark = pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU: nothing is absent")


def test_triton_is_the_one_that_torch_asks_for() -> None:
    import triton

    assert cuda_adapter.missing() == ""
    assert triton.__version__.startswith("3.7.")


def test_another_torch_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "__version__", "2.14.0")
    assert cuda_adapter.missing() == "torch 2.13 is needed, whose names are known, and this is 2.14.0"


def test_torch_believes_in_the_gpu() -> None:
    import triton
    from torch._dynamo.device_interface import CudaInterface, get_interface_for_device
    from torch._inductor.runtime.hints import DeviceProperties
    from torch.utils._triton import has_triton

    assert not has_triton()
    with cuda_adapter._told_of(GPUS["sm_80"]):
        assert has_triton()
        assert torch.cuda.get_device_capability() == (8, 0)
        assert get_interface_for_device("cuda").is_available()
        assert get_interface_for_device("cuda").is_bf16_supported()
        properties = DeviceProperties.create(cuda_adapter.cuda_device())
        assert (properties.cc, properties.multi_processor_count, properties.warp_size) == (80, 108, 32)
        assert triton.runtime.driver.active.get_current_target().arch == 80
    assert not has_triton()
    assert not CudaInterface.is_available()
    assert not hasattr(torch._C, "_cuda_getCurrentRawStream")


def test_kernels_are_compiled_and_not_loaded() -> None:
    from torch._inductor.runtime.triton_heuristics import CachingAutotuner

    assert "warm_cache_only" in inspect.signature(CachingAutotuner.precompile).parameters
    assert "compile_results" in inspect.getsource(CachingAutotuner._precompile_worker)


def test_the_settings_exist() -> None:
    from torch._inductor import config

    assert not [name for name in cuda_adapter._NOTHING_RUNS if not hasattr(config, name)]


def test_patterns_are_registered_once_a_device() -> None:
    from torch._inductor.fx_passes import joint_graph

    assert list(inspect.signature(joint_graph.lazy_init).parameters)[:1] == ["input_device"]
    assert "lazy_init(input_device)" in inspect.getsource(joint_graph.joint_graph_passes)
