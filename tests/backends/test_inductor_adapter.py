"""Tells when a private torch name that the Inductor backend uses moves, or changes its form."""

from __future__ import annotations

import importlib
import inspect
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, get_args

import pytest
import torch
from torch._inductor.runtime.cache_dir_utils import cache_dir
from torch._subclasses.fake_tensor import FakeTensorMode

from txgraph.backends.inductor import adapter, provenance
from txgraph.ir.node import COMPUTES


def test_standalone_compile_takes_what_the_adapter_gives() -> None:
    from torch._inductor import standalone_compile

    signature = inspect.signature(standalone_compile)
    bound = signature.bind("module", ["examples"], dynamic_shapes="from_example_inputs")
    assert set(bound.arguments) == {"gm", "example_inputs", "dynamic_shapes"}
    module = importlib.import_module("torch._inductor.standalone_compile")
    assert "from_example_inputs" in get_args(module.DynamicShapesType)


def test_the_generated_code_can_be_collected() -> None:
    from torch._inductor.graph import GraphLowering

    assert GraphLowering.save_output_code is None  # a callback, asked before each use
    assert "GraphLowering.save_output_code(" in inspect.getsource(GraphLowering)
    with adapter.generated_code() as sources:
        GraphLowering.save_output_code("source")
    assert sources == ["source"]
    assert GraphLowering.save_output_code is None


def test_settings_are_those_of_inductor() -> None:
    from torch._inductor import config

    with config.patch({"max_autotune": True}):
        assert config.max_autotune
    assert not config.max_autotune


def test_settings_as_a_text() -> None:
    from torch._inductor import config

    before = adapter.settings()
    with config.patch({"max_autotune": True}):
        assert adapter.settings() != before
    assert adapter.settings() == before


def test_compiled_functions_are_stored() -> None:
    """And what Inductor cannot store raises a RuntimeError, as the backend expects."""
    module = torch.fx.symbolic_trace(lambda x: (x * 2 + 1,))
    (placeholder, *_) = module.graph.nodes
    x = torch.arange(6.0)
    with FakeTensorMode() as mode:
        placeholder.meta["val"] = mode.from_tensor(x)
    function = adapter.compile_graph(module, [placeholder.meta["val"]], {}).function
    again, namespace = adapter.load_artifact(adapter.artifact_bytes(function))
    assert any(name.startswith("cpp_fused") for name in namespace)
    assert torch.equal(again(x)[0], x * 2 + 1)
    function._artifacts = None  # type: ignore[attr-defined]
    with pytest.raises(RuntimeError, match="no artifact"):
        adapter.artifact_bytes(function)


def test_headers_are_left_alone_where_nothing_is_compiled(tmp_path: Path) -> None:
    """Each load is by a process of its own, as a process keeps what it has loaded."""
    module = torch.fx.symbolic_trace(lambda x: (x * 3 + 1,))
    (placeholder, *_) = module.graph.nodes
    with FakeTensorMode() as mode:
        placeholder.meta["val"] = mode.from_tensor(torch.arange(6.0))
    code = adapter.compile_graph(module, [placeholder.meta["val"]], {})
    needed = adapter.libraries(code.namespace)
    assert len(needed) == 1
    assert (Path(cache_dir()) / needed[0]).exists()
    (tmp_path / "artifact").write_bytes(adapter.artifact_bytes(code.function))
    script = """
import sys
from pathlib import Path
from unittest import mock
import torch
from torch._inductor.runtime.cache_dir_utils import cache_dir
from torch._inductor import codecache
from txgraph.backends.inductor import adapter

with mock.patch.object(codecache, "_precompile_header", wraps=codecache._precompile_header) as header:
    function, _ = adapter.load_artifact(Path(sys.argv[1]).read_bytes(), sys.argv[2:])
    assert torch.equal(function(torch.arange(6.0))[0], torch.arange(6.0) * 3 + 1)
print(header.call_count)
"""
    command = [sys.executable, "-c", script, str(tmp_path / "artifact")]
    for libraries, looks in ([*needed], 0), ([*needed, "lost.so"], 1), ([], 1):
        done = subprocess.run([*command, *libraries], check=True, capture_output=True, text=True)
        assert done.stdout.split() == [str(looks)]


def test_compilers_work_together() -> None:
    """They are awaited when that is asked for, but by another thread that compiles; what they refuse is raised."""
    from torch._inductor import config
    from torch._inductor.async_compile import AsyncCompile, CodeCacheFuture
    from torch._inductor.codecache import LambdaFuture

    here: dict[str, Any] = {"kernel": LambdaFuture(lambda: 1)}
    there: dict[str, Any] = {"kernel": LambdaFuture(lambda: 2)}
    with config.patch({"compile_threads": 2}):
        with adapter.compiled_together() as wait_for_all:
            AsyncCompile().wait(here)
            with ThreadPoolExecutor(1) as other:
                other.submit(lambda: AsyncCompile().wait(there)).result()
            assert isinstance(here["kernel"], CodeCacheFuture)
            assert there["kernel"] == 2
        assert isinstance(here["kernel"], CodeCacheFuture)
        wait_for_all()
        assert here["kernel"] == 1
        AsyncCompile().wait(again := {"kernel": LambdaFuture(lambda: 3)})
        assert again["kernel"] == 3  # type: ignore[comparison-overlap]
        with adapter.compiled_together() as wait_for_all:
            AsyncCompile().wait({"kernel": LambdaFuture(lambda: 1 // 0)})
        with pytest.raises(ZeroDivisionError):
            wait_for_all()


def test_what_is_compiled_together_can_be_called_afterwards() -> None:
    """Inductor waits for its compilers by what the adapter takes over, and needs no result of theirs before."""
    from torch._inductor import config
    from torch._inductor.async_compile import CodeCacheFuture

    x = torch.arange(6.0)
    sources = [lambda x: (x.sin() * 2.5,), lambda x: (x.cos() * 3.5,)]
    compiled = []
    with config.patch({"compile_threads": 2}), adapter.compiled_together() as wait_for_all:
        for source in sources:
            module = torch.fx.symbolic_trace(source)
            (placeholder, *_) = module.graph.nodes
            with FakeTensorMode() as mode:
                placeholder.meta["val"] = mode.from_tensor(x)
            compiled.append(adapter.compile_graph(module, [placeholder.meta["val"]], {}))
        kernels = [value for each in compiled for name, value in each.namespace.items() if name.startswith("cpp_fused")]
        assert len(kernels) == 2
        assert all(isinstance(kernel, CodeCacheFuture) for kernel in kernels)
    wait_for_all()
    for each, source in zip(compiled, sources, strict=True):
        torch.testing.assert_close(each.function(x), source(x))


def test_flex_attention_takes_what_the_adapter_gives() -> None:
    from torch._higher_order_ops import flex_attention

    names = list(inspect.signature(flex_attention.__call__).parameters)
    assert names == [
        "query", "key", "value", "score_mod", "block_mask", "scale", "kernel_options", "score_mod_other_buffers",
        "mask_mod_other_buffers",
    ]  # fmt: skip
    from torch.nn.attention.flex_attention import _create_empty_block_mask

    blocks = _create_empty_block_mask(torch.empty(1, 1, 1, 1), torch.empty(1, 1, 1, 1)).as_tuple()
    assert callable(blocks[-1])
    assert all(isinstance(b, int) or b is None or (isinstance(b, torch.Tensor) and b.numel() == 1) for b in blocks[:-1])


def test_equal_sizes_can_be_kept_apart() -> None:
    from torch.fx.experimental import _config

    assert _config.use_duck_shape is True
    with _config.patch(use_duck_shape=False):
        assert _config.use_duck_shape is False


def test_inductor_says_what_it_launches() -> None:
    """Each in the order of a call, with the given nodes that it computes; also where it comes from torch's cache."""

    def function(x: torch.Tensor, w: torch.Tensor) -> tuple[torch.Tensor]:
        hidden = torch.ops.aten.mul.Tensor(x, 2.0).t()
        return (torch.ops.aten.tanh.default(torch.ops.aten.mm.default(hidden, w)),)

    inputs = torch.arange(6.0).reshape(2, 3), torch.ones(2, 4)
    for names in (("first", "second", "third"), ("one", "two", "three")):  # equal, but for the names
        for _ in range(2):
            module = torch.fx.symbolic_trace(function)
            placeholders = [node for node in module.graph.nodes if node.op == "placeholder"]
            with FakeTensorMode() as mode:
                for node, tensor in zip(placeholders, inputs, strict=True):
                    node.meta["val"] = mode.from_tensor(tensor)
            computing = [n for n in module.graph.nodes if n.op == "call_function"]
            assert len(computing) == 3
            for node, name in zip(computing, names, strict=True):
                node.name = name
                node.meta[COMPUTES] = (f"in place of {name}",)
            module.recompile()
            code = adapter.compile_graph(module, [n.meta["val"] for n in placeholders], {})
            assert torch.equal(code(*inputs)[0], function(*inputs)[0])
            assert [launch.nodes for launch in code.launches] == [(f"in place of {name}",) for name in names]
            doubled, product, last = code.launches
            assert product.called == "extern_kernels.mm"
            assert not product.code
            assert "2.0" in doubled.code
            assert "tanh" in last.code
            assert {doubled.called, last.called} <= code.namespace.keys()


def test_nodes_of_inductor_are_named_by_their_operators() -> None:
    assert [provenance._operator(n) for n in ("permute", "permute_12", "full_default", "full_default_3")] == [
        "permute", "permute", "full", "full",
    ]  # fmt: skip
    views = ("view", "permute", "unsqueeze", "slice", "select", "expand", "split_with_sizes", "getitem", "_unsafe_view")
    assert all(map(provenance._is_view, views))
    assert not any(map(provenance._is_view, ("add", "clone", "copy_", "mm", "where", "linears_native", "no_operator")))
