"""Compile for CUDA where there is none: all private names of torch and Triton that this takes, in one place.

Inductor and Triton ask the device for its properties, and load into it what they compiled. Here they are told of a GPU
that is not there, and what they compiled is kept as it is. Nothing of it happens where torch finds a GPU.

``tests/backends/test_cuda_adapter.py`` tells when one of the names moves.
"""

from __future__ import annotations

import contextlib
import importlib.util
from collections.abc import Callable, Iterator, Mapping, Sequence
from types import ModuleType, SimpleNamespace
from typing import Any
from unittest import mock

import torch
from torch._inductor import config
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.fx.experimental import _config as symbolic_sizes

from txgraph.backends.gpus import Gpu, refuse
from txgraph.backends.inductor.adapter import compiled_graphs, generated_code, only_own_patterns
from txgraph.backends.inductor.generated import Generated, Launch
from txgraph.backends.inductor.provenance import launches_of
from txgraph.errors import BackendFailed
from txgraph.options import Target

_TORCH = "2.13"  # what the names below are those of
INSTALL = "pip install 'txgraph[cuda]'"
_CUDA = "12.8"  # what torch is told; Triton brings its own assembler
# What would measure or run something on the GPU, or would have it load the code.
_NOTHING_RUNS: Mapping[str, Any] = {
    "compile_threads": 1,  # other processes would look for the GPU
    "cpp_wrapper": False,
    "force_disable_caches": True,  # what is compiled here is not what a machine with a GPU should find
    "joint_graph_constant_folding": False,
    "max_autotune": False,
    "max_autotune_gemm": False,
    "max_autotune_pointwise": False,
    "shape_padding": False,
    "use_static_triton_launcher": False,
}


def missing() -> str:
    """What this needs and is not here, with what to do; empty: nothing. Torch for CPUs comes without Triton."""
    if not torch.__version__.startswith(f"{_TORCH}."):
        return f"torch {_TORCH} is needed, whose names are known, and this is {torch.__version__}"
    return "" if importlib.util.find_spec("triton") else f"Triton is not installed: {INSTALL}"


def compile_for(
    gpu: Gpu, module: torch.fx.GraphModule, examples: Sequence[FakeTensor], settings: Mapping[str, Any], target: Target
) -> Generated:
    """Compile a functional ATen graph on CUDA tensors for a GPU that is not there.

    Args:
        module, settings: as for :func:`txgraph.backends.inductor.adapter.compile_graph`.
        examples: the fake CUDA tensors of its placeholders.

    Returns:
        The source and the launches; the function refuses.

    Raises:
        BackendFailed: a setting needs the GPU.
    """
    refused = sorted(name for name in settings.keys() & _NOTHING_RUNS.keys() if settings[name] != _NOTHING_RUNS[name])
    if refused:
        raise BackendFailed(f"options={{'inductor': ...}}: {', '.join(refused)} needs the GPU itself: leave it out")
    for node in module.graph.nodes:
        node.meta.pop("from_node", None)
    mode = examples[0].fake_mode if examples else FakeTensorMode()
    configured = {**settings, **_NOTHING_RUNS, "trace.provenance_tracking_level": 1}
    kept_apart = symbolic_sizes.patch(use_duck_shape=False)  # type: ignore[attr-defined]  # added when it is imported
    with (
        torch.no_grad(),
        config.patch(configured),
        kept_apart,
        only_own_patterns(),
        generated_code() as sources,
        compiled_graphs() as compiled,
        _told_of(gpu),
        torch._guards.tracing(torch._guards.TracingContext(mode)),
    ):
        from torch._inductor.compile_fx import compile_fx

        compile_fx(module, list(examples))
    source, namespace = "\n".join(sources), compiled[-1].namespace
    launches = launches_of(compiled[-1].provenance, source, module.graph)
    return Generated(refuse(target), source, tuple(_with_binaries(each, namespace) for each in launches), {})


def cuda_device() -> torch.device:
    """The device of the tensors of such a graph."""
    return torch.device("cuda", 0)


def _with_binaries(launch: Launch, namespace: Mapping[str, Any]) -> Launch:
    """A launch of a Triton kernel with what it was compiled to: of the first configuration that Inductor would try."""
    results = getattr(namespace.get(launch.called), "compile_results", None)
    if not results:
        return launch
    asm = results[0].kernel.asm
    return Launch(launch.called, launch.nodes, launch.code, asm["ptx"], asm["cubin"])


@contextlib.contextmanager
def _told_of(gpu: Gpu) -> Iterator[None]:
    """Torch and Triton believe in ``gpu``, meanwhile, and load nothing into it."""
    import triton
    from torch._dynamo.device_interface import CudaInterface
    from torch._inductor.fx_passes import joint_graph
    from torch._inductor.runtime import triton_helpers
    from torch._inductor.runtime.triton_heuristics import CachingAutotuner
    from triton.backends.compiler import GPUTarget

    properties = _properties(gpu)
    precompile = CachingAutotuner.precompile
    driver = SimpleNamespace(
        get_current_target=lambda: GPUTarget("cuda", gpu.number, properties.warp_size),
        get_current_device=lambda: 0,
        get_active_torch_device=cuda_device,
        is_active=lambda: True,
    )
    # Patterns are traced on tensors: on those of a CPU, which are here. They are the same.
    joint_graph.lazy_init(torch.device("cpu"))
    answers: list[tuple[Any, str, Any]] = [
        (torch.version, "cuda", _CUDA),
        (torch.Tensor, "copy_", _copy),
        (joint_graph, "lazy_init", lambda *_: None),
        (triton.runtime.driver, "_active", driver),
        (triton_helpers, "set_driver_to_gpu", lambda: None),
        (CachingAutotuner, "precompile", lambda kernel, *_, **__: precompile(kernel, warm_cache_only=True)),
        (CudaInterface.Worker, "get_device_properties", staticmethod(lambda *_: properties)),
        (CudaInterface, "is_available", staticmethod(lambda: True)),
        (CudaInterface, "is_bf16_supported", staticmethod(lambda *_, **__: not gpu.lacks(torch.bfloat16))),
    ]
    for name, answer in (
        ("device_count", 1),
        ("current_device", 0),
        ("get_device_properties", properties),
        ("get_device_capability", gpu.capability),
    ):
        answers.append((torch.cuda, name, _always(answer)))
        if hasattr(CudaInterface, name):
            answers.append((CudaInterface, name, staticmethod(_always(answer))))
    with contextlib.ExitStack() as stack:
        stack.callback(_forget_devices)
        for owner, name, answer in answers:
            stack.enter_context(mock.patch.object(owner, name, answer))
        # Generated code imports it; torch for CPUs has none.
        stack.enter_context(mock.patch.object(torch._C, "_cuda_getCurrentRawStream", _always(0), create=True))
        _forget_devices()
        yield


def _always(answer: Any) -> Callable[..., Any]:
    return lambda *_, **__: answer


def _copy(target: torch.Tensor, source: torch.Tensor, non_blocking: bool = False) -> torch.Tensor:
    """``Tensor.copy_``, which would start the device, as the operator alone."""
    return torch.ops.aten.copy_.default(target, source, non_blocking)  # type: ignore[no-any-return]  # it gives target


def _properties(gpu: Gpu) -> SimpleNamespace:
    """As ``torch.cuda.get_device_properties`` gives them."""
    block, whole = gpu.shared_memory
    return SimpleNamespace(
        name=f"NVIDIA {gpu.name}",
        major=gpu.capability[0],
        minor=gpu.capability[1],
        multi_processor_count=gpu.multiprocessors,
        regs_per_multiprocessor=65536,
        max_threads_per_multi_processor=gpu.threads,
        max_threads_per_block=1024,
        warp_size=32,
        shared_memory_per_block=48 * 1024,
        shared_memory_per_block_optin=block,
        shared_memory_per_multiprocessor=whole,
        L2_cache_size=gpu.cache,
        total_memory=gpu.memory,
        is_integrated=False,
    )


def _forget_devices() -> None:
    """Have torch ask again for all that it remembers of devices."""
    from torch._dynamo.device_interface import caching_worker_device_properties
    from torch._inductor import utils
    from torch._inductor.runtime.hints import DeviceProperties
    from torch.utils import _triton

    caching_worker_device_properties.pop("cuda", None)
    DeviceProperties.create.cache_clear()
    for module in (utils, _triton):
        _forget_answers(module)


def _forget_answers(module: ModuleType) -> None:
    """Clear the caches of a module's own functions."""
    for value in list(vars(module).values()):
        if getattr(value, "__module__", "") == module.__name__ and hasattr(value, "cache_clear"):
            value.cache_clear()
