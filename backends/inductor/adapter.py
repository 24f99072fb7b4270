"""Every private torch name that the Inductor backend uses, in one place.

What compiles is imported where it compiles: the import takes most of a second, and a warm start does without.

``tests/backends/test_inductor_adapter.py`` tells when one of them moves.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import operator
import os
import tempfile
import threading
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from unittest import mock

import torch
from torch._inductor import config, standalone_compile
from torch._inductor.runtime.cache_dir_utils import cache_dir
from torch._inductor.standalone_compile import CompiledArtifact
from torch.compiler import config as caches
from torch.fx import Node
from torch.fx.experimental import _config as symbolic_sizes

from txgraph.backends.inductor.generated import Generated
from txgraph.backends.inductor.provenance import launches_of
from txgraph.backends.kernels.build import known_vectors
from txgraph.errors import BackendFailed

_aten = torch.ops.aten
_CompiledFunction = Callable[..., Sequence[Any]]


def compile_graph(module: torch.fx.GraphModule, examples: Sequence[Any], settings: Mapping[str, Any]) -> Generated:
    """Compile a functional ATen graph for inference.

    Args:
        module: placeholders only, no attributes. Its nodes' notes say what they compute (``COMPUTES``).
        examples: the fake tensors of its placeholders; symbolic sizes stay symbolic.
        settings: for ``torch._inductor.config``.

    Returns:
        The compiled function (tensors in, tuple of outputs out), the generated Python source, and what it launches.
    """
    for node in module.graph.nodes:
        node.meta.pop("from_node", None)  # of earlier graphs, which torch tells apart by their addresses only
    # Passing the graph's own fakes keeps static sizes static: "from_graph" would make them symbolic. And sizes that
    # vary stay two where they are equal in the example: torch would else give both one symbol.
    kept_apart = symbolic_sizes.patch(use_duck_shape=False)  # type: ignore[attr-defined]  # added when it is imported
    configured = config.patch({**known_vectors(), **settings, "trace.provenance_tracking_level": 1})
    tagged = _tagged(hashlib.sha256(module.code.encode()).hexdigest())  # the names of operators are kept with the code
    with (
        torch.no_grad(),
        configured,
        kept_apart,
        tagged,
        only_own_patterns(),
        generated_code() as sources,
        compiled_graphs() as compiled,
    ):
        artifact = standalone_compile(module, list(examples), dynamic_shapes="from_example_inputs")
    source = "\n".join(sources)
    launches = launches_of(compiled[-1].provenance, source, module.graph)
    return Generated(artifact, source, launches, compiled[-1].namespace)


def settings() -> str:
    """All settings of ``torch._inductor.config`` as they are now, as one text."""
    return config.get_hash().hex()


def check_settings(given: Mapping[str, Any]) -> None:
    """Look that there are such settings, also where nothing has to be compiled.

    Raises:
        BackendFailed: Inductor does not know one of them, or not this value.
    """
    try:
        with config.patch(dict(given)):
            pass
    except (AttributeError, TypeError, ValueError) as error:
        raise BackendFailed(f"Inductor refuses options['inductor']: {error}") from error


def artifact_bytes(artifact: Any) -> bytes:
    """What :func:`load_artifact` makes a compiled function of again.

    Raises:
        RuntimeError: there is something in its graph that Inductor cannot store.
    """
    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, "artifact")
        artifact.save(path=path, format="binary")
        with open(path, "rb") as file:
            return file.read()


def libraries(namespace: Mapping[str, Any]) -> tuple[str, ...]:
    """Where in Inductor's cache are the libraries with the kernels that generated code names."""
    files = (getattr(getattr(value, "__self__", None), "__file__", None) for value in namespace.values())
    return tuple({os.path.relpath(file, cache_dir()): None for file in files if file})


def load_artifact(data: bytes, needed: Sequence[str] = ()) -> tuple[_CompiledFunction, dict[str, Any]]:
    """A function that :func:`compile_graph` made, perhaps in another process, and the names in its code.

    Args:
        needed: its :func:`libraries`. Where they are lost Inductor compiles them again.
    """
    is_there = bool(needed) and all(os.path.exists(os.path.join(cache_dir(), each)) for each in needed)
    with (
        tempfile.TemporaryDirectory() as folder,
        config.patch(known_vectors()),
        without_headers() if is_there else contextlib.nullcontext(),
        compiled_graphs() as compiled,
    ):
        path = os.path.join(folder, "artifact")
        with open(path, "wb") as file:
            file.write(data)
        function: _CompiledFunction = CompiledArtifact.load(path=path, format="binary")
    return function, compiled[-1].namespace


@contextlib.contextmanager
def without_headers() -> Iterator[None]:
    """Do not precompile headers, meanwhile.

    Inductor looks first whether a header is as it was, by a run of the preprocessor: a fifth of a second, also where
    the library is there. Without one it compiles for twice as long.
    """
    from torch._inductor import codecache

    with mock.patch.object(codecache, "_precompile_header", return_value=None):
        yield


@contextlib.contextmanager
def only_own_patterns() -> Iterator[None]:
    """Leave out Inductor's patterns of attention, meanwhile: they fit other functions, too.

    A pattern is matched without its axes and sizes, and then traced with those of the match. Where torch reads the
    pattern from a file it leaves that second step out: a softmax over any axis and a key with any order of its axes
    become attention (https://github.com/pytorch/pytorch/issues/195320 and 196468). Our own passes know attention.
    """
    from torch._inductor import pattern_matcher
    from torch._inductor.fx_passes import joint_graph

    patterns = joint_graph.patterns

    def apply(graph: torch.fx.Graph) -> int:
        from_files = {id(pattern) for *_, pattern in pattern_matcher._known_precompiled_patterns}
        kept = defaultdict(list, {k: [e for e in v if id(e.pattern) not in from_files] for k, v in entries.items()})
        with mock.patch.object(patterns, "patterns", kept):
            return original(graph)

    entries, original = patterns.patterns, patterns.apply
    with mock.patch.object(patterns, "apply", apply), _tagged("without patterns from files"):
        yield


def _tagged(text: str) -> contextlib.AbstractContextManager[object]:
    """Nothing comes back from Inductor's caches, meanwhile, but what was compiled with the same tag."""
    return caches.patch(cache_key_tag=f"{caches.cache_key_tag} {text}")  # type: ignore[attr-defined,no-any-return]


@contextlib.contextmanager
def compiled_together() -> Iterator[Callable[[], None]]:
    """Leave the C++ compilers of several graphs at work meanwhile.

    Inductor starts them in threads of its own and waits when it has loaded the module that it wrote. Other threads that
    compile wait as ever.

    Yields:
        A function that waits for all of them: only then can be called what was compiled. It raises what they raised.
    """
    from torch._inductor.async_compile import AsyncCompile

    owner = threading.get_ident()
    waiting: list[Callable[[], None]] = []
    original = AsyncCompile.wait

    def wait(compilers: AsyncCompile, scope: dict[str, Any]) -> None:
        if threading.get_ident() == owner:
            waiting.append(lambda: original(compilers, scope))
        else:
            original(compilers, scope)

    def wait_for_all() -> None:
        for each in waiting:
            each()

    with mock.patch.object(AsyncCompile, "wait", wait):
        yield wait_for_all


@contextlib.contextmanager
def generated_code() -> Iterator[list[str]]:
    """Collect the source of everything that Inductor compiles, or takes from its cache, meanwhile."""
    from torch._inductor.graph import GraphLowering

    sources: list[str] = []
    with mock.patch.object(GraphLowering, "save_output_code", sources.append):
        yield sources


@dataclass(frozen=True)
class _CompiledGraph:
    """What torch says of code that it compiled, or took from its cache.

    Attributes:
        provenance: see :func:`launches_of`.
        namespace: the global names of the generated Python module; none where all of it is C++.
    """

    provenance: Mapping[str, Mapping[str, Sequence[str]]]
    namespace: dict[str, Any]


@contextlib.contextmanager
def compiled_graphs() -> Iterator[list[_CompiledGraph]]:
    """Collect what torch says of everything that Inductor compiles, or takes from its cache, meanwhile."""
    from torch._inductor.output_code import CompiledFxGraph

    found: list[_CompiledGraph] = []
    original = CompiledFxGraph.post_compile

    def post_compile(graph: Any, *args: Any) -> None:
        provenance = json.loads(graph.inductor_provenance_mapping_str or "{}")
        found.append(_CompiledGraph(provenance, getattr(graph.current_callable, "__globals__", {})))
        original(graph, *args)

    with mock.patch.object(CompiledFxGraph, "post_compile", post_compile):
        yield found


def flex_attention(
    module: torch.fx.GraphModule,
    query: Node,
    key: Node,
    value: Node,
    score: torch.fx.GraphModule,
    captured: tuple[Node, ...],
) -> Node:
    """Insert a call of FlexAttention that computes every block, with no scale of its own; returns its first result.

    Args:
        query, key, value: of ``[B, H, S, D]``. score: of a product, its four indices and the ``captured`` values,
            which must be in memory: Inductor's kernel for CPUs does not see to it.
    """
    from torch.nn.attention.flex_attention import _create_empty_block_mask as create_empty_block_mask

    blocks = create_empty_block_mask(torch.empty(1, 1, 1, 1), torch.empty(1, 1, 1, 1)).as_tuple()
    *sizes, _ = blocks
    device = query.meta["val"].device
    graph = module.graph
    everything = [
        graph.call_function(_aten.full.default, (list(v.shape), int(v.item())), {"dtype": v.dtype, "device": device})
        if isinstance(v, torch.Tensor)
        else v
        for v in sizes
    ]
    visible = torch.fx.Graph()
    for name in ("b", "h", "i", "j"):
        visible.placeholder(name)
    visible.output(visible.call_function(_aten.full.default, ([], True), {"dtype": torch.bool, "device": device}))
    parts = [_add_part(module, part) for part in (score, torch.fx.GraphModule(torch.nn.Module(), visible))]
    options = {"BACKEND": "AUTO", "OUTPUT_LOGSUMEXP": False, "OUTPUT_MAX": False}
    arguments: Any = (query, key, value, parts[0], (*everything, parts[1]), 1.0, options, captured, ())
    results = graph.call_function(torch.ops.higher_order.flex_attention, arguments)
    return graph.call_function(operator.getitem, (results, 0))


def _add_part(module: torch.fx.GraphModule, part: torch.fx.GraphModule) -> Node:
    name = f"part_{sum(1 for _ in module.children())}"
    module.add_submodule(name, part)
    return module.graph.get_attr(name)
