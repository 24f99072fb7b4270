"""CUDA graphs without a GPU: a stand-in replays, and all that surrounds it is the product's."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.export import Dim
from transformers import GPT2Config, GPT2LMHeadModel

import txgraph
from tests.recorders import Forgetful, Running, StandIn, Strict, WritesInPlace
from tests.small import MLP, Linear, assert_as_eager, graph_of, module
from tests.threads import in_threads
from txgraph import BackendOptions, Target, compile
from txgraph.backends import Compiled, choose_backend
from txgraph.backends.cuda_graphs import Replayed, obstacle, recorder_for, with_cuda_graphs
from txgraph.backends.reference import ReferenceBackend
from txgraph.backends.tvm.lower import is_installed
from txgraph.ir import Graph, GraphBuilder, interpret

ON = {"cuda_graphs": True}


class Keeps(ReferenceBackend):
    """Interprets what another process kept."""

    def lower(self, graph: Graph, target: Target, options: BackendOptions) -> Compiled:
        return self.restore(graph.copy())

    def restore(self, kept: Any) -> Compiled:
        return Compiled(lambda tensors: interpret(kept, tensors), keep=lambda: kept)


@pytest.fixture
def optimized(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Any]:
    """``txgraph.optimize`` as on a GPU with that recorder."""

    def made(model: nn.Module, recorder: StandIn, backend: Any = None, **arguments: Any) -> Any:
        monkeypatch.setattr(compile, "recorder_for", lambda target: recorder)
        monkeypatch.setattr(compile, "choose_backend", lambda name: backend or ReferenceBackend())
        return txgraph.optimize(model, backend="reference", **({"options": ON} | arguments))

    return made


def replayed(program: Compiled, recorder: StandIn | None = None, clones: bool = True, **targets: Any) -> Replayed:
    told = targets.pop("told", [])
    return Replayed(program, targets.get("targets", {}), recorder or StandIn(), clones, told.append)


# -- what calls see ------------------------------------------------------------------------------------------------


def test_each_call_has_its_own_inputs_and_outputs() -> None:
    recorder = StandIn()
    program = replayed(Compiled(lambda t: [t[0] + t[1], 3, t[1]]), recorder)
    given = [(torch.full((2,), float(at)), torch.ones(2)) for at in range(3)]
    results = [program.run(tensors) for tensors in given]
    assert [result[0].tolist() for result in results] == [[1.0, 1.0], [2.0, 2.0], [3.0, 3.0]]
    assert [result[1] for result in results] == [3, 3, 3]
    assert (recorder.recorded, recorder.replayed) == (1, 3)
    given[1][1].zero_()
    assert results[1][2].tolist() == [1, 1], "not the memory of an input"


def test_outputs_are_overwritten_where_that_was_asked_for() -> None:
    program = replayed(Compiled(lambda t: [t[0] * 2]), clones=False)
    (first,), (second,) = program.run([torch.ones(2)]), program.run([torch.zeros(2)])
    assert first.data_ptr() == second.data_ptr()
    assert first.tolist() == [0, 0]


def test_in_and_out_of_inference_mode() -> None:
    program = replayed(Compiled(lambda t: [t[0] * 2]))
    with torch.inference_mode():
        program.run([torch.ones(2)])
    assert program.run([torch.full((2,), 4.0)])[0].tolist() == [8, 8]
    with torch.inference_mode():
        assert program.run([torch.full((2,), 5.0)])[0].tolist() == [10, 10]


def test_threads_take_turns() -> None:
    program = replayed(Compiled(lambda t: [t[0] + 1, t[0] + 2, t[0] + 3]))
    wrong = []

    def calls(number: int) -> None:
        for at in range(100):
            x = torch.full((4,), float(1000 * number + at))
            outputs = program.run([x])
            wrong.extend(at for plus, out in enumerate(outputs, 1) if not torch.equal(out, x + plus))

    assert in_threads(*(partial(calls, number) for number in range(4))) == [None] * 4
    assert not wrong


# -- what is written in place --------------------------------------------------------------------------------------


class Counter:
    """Adds x to a cache that comes with each call and to a buffer, both in place; gives their sum."""

    def __init__(self) -> None:
        self.buffer = torch.zeros(2)
        self.told: list[str] = []
        self.recorder = StandIn()
        self.plain_updates = 0
        program = Compiled(self._run, update=self._update, in_place=frozenset({0, 1}))
        self.program = Replayed(program, {0: 1, 1: self.buffer}, self.recorder, True, self.told.append)

    def _run(self, tensors: Sequence[torch.Tensor]) -> Sequence[Any]:
        x, cache = tensors
        return [cache + x, self.buffer + x, cache + self.buffer + 2 * x]

    def _update(self, tensors: Sequence[torch.Tensor]) -> Sequence[Any]:
        x, cache = tensors
        self.plain_updates += 1
        cache += x
        self.buffer += x
        return [cache, self.buffer, cache + self.buffer]

    def call(self, cache: torch.Tensor, x: float = 1.0) -> tuple[bool, torch.Tensor]:
        """One call, whether it replayed, and what it gave; what it wrote to must be what it was given."""
        before = self.recorder.replayed
        wanted = cache + self.buffer + 2 * x
        outputs = self.program.update([torch.full((2,), x), cache])
        assert outputs[0] is cache
        assert outputs[1] is self.buffer
        torch.testing.assert_close(outputs[2], wanted)
        torch.testing.assert_close(cache + self.buffer, wanted)
        return self.recorder.replayed > before, outputs[2]


def test_a_cache_is_recorded_by_address() -> None:
    counter, cache, other = Counter(), torch.zeros(2), torch.zeros(2)
    assert [counter.call(cache)[0] for _ in range(4)] == [False, True, True, True]
    assert [counter.call(other, 5.0)[0] for _ in range(3)] == [False, True, True]
    assert cache.tolist() == [4, 4]
    assert other.tolist() == [15, 15]
    assert counter.buffer.tolist() == [19, 19]
    assert counter.recorder.recorded == 2
    assert counter.recorder.waited == 1, "before the memory of the first recording is given back"
    assert not counter.told


def test_what_is_given_while_a_cache_is_written_stays() -> None:
    counter, cache = Counter(), torch.zeros(2)
    results = [counter.call(cache)[1] for _ in range(4)]
    assert [result.tolist() for result in results] == [[2, 2], [4, 4], [6, 6], [8, 8]]


def test_run_writes_to_nothing_and_is_recorded() -> None:
    counter, cache = Counter(), torch.full((2,), 7.0)
    outputs = counter.program.run([torch.ones(2), cache])
    assert counter.recorder.replayed == 1
    assert [t.tolist() for t in outputs] == [[8, 8], [1, 1], [9, 9]]
    assert cache.tolist() == [7, 7]
    assert counter.buffer.tolist() == [0, 0]
    assert counter.call(cache)[0] is False, "it was recorded on a copy"
    assert counter.call(cache)[0] is True
    counter.program.run([torch.ones(2), cache])
    assert "a call that could not write in place ran without a CUDA graph" in counter.told


def test_caches_that_are_new_in_each_call_are_told_of() -> None:
    counter, caches = Counter(), [torch.zeros(2) for _ in range(5)]
    assert not any(counter.call(cache)[0] for cache in caches)
    assert counter.recorder.recorded == 0
    assert counter.told == [
        "calls that bring other memory to be written to than the call before run without a CUDA graph"
    ]


def test_caches_that_take_turns_are_not_recorded_again_and_again() -> None:
    counter, one, other = Counter(), torch.zeros(2), torch.zeros(2)
    for _ in range(2):
        counter.call(one)
    for _ in range(5):
        counter.call(other)
        counter.call(one)
    assert counter.recorder.recorded == 1
    assert len(counter.told) == 1


def test_caches_are_not_held() -> None:
    counter = Counter()
    counter.recorder = Forgetful()
    counter.program = Replayed(counter.program._program, {0: 1, 1: counter.buffer}, counter.recorder, True, print)
    cache = torch.zeros(2)
    for _ in range(2):
        counter.program.update([torch.ones(2), cache])
    assert counter.recorder.recorded == 1
    held = weakref.ref(cache)
    del cache
    gc.collect()
    assert held() is None


# -- what cannot be recorded ---------------------------------------------------------------------------------------


def _asks(x: torch.Tensor) -> torch.Tensor:
    return x + x.sum().item()


def test_a_recording_that_fails_is_told_with_the_kernel(optimized: Callable[..., Any]) -> None:
    with torch.library._scoped_library("cuda_graph_test", "FRAGMENT") as library:
        library.define("asks(Tensor x) -> Tensor")
        library.impl("asks", _asks, "CompositeExplicitAutograd")
        library.impl("asks", torch.empty_like, "Meta")
        model, recorder = module(lambda x: torch.sin(torch.ops.cuda_graph_test.asks(torch.cos(x)))), Strict()
        x = torch.randn(3, 4)
        fast = optimized(model, recorder, args=(x,))
        tried = recorder.recorded
        for _ in range(2):
            assert_as_eager(fast(x), model, x)
        assert recorder.recorded == tried, "not tried again"
        assert recorder.replayed == 0
        (fallback,) = fast.report.fallbacks
        assert fallback.what == "CUDA graphs"
        assert fallback.reason == (
            "runs without a CUDA graph: recording failed at cuda_graph_test.asks: "
            "RuntimeError: operation not permitted when stream is capturing"
        )


def test_a_program_that_does_not_tell_of_its_launches() -> None:
    told: list[str] = []
    program = replayed(Compiled(lambda t: [_asks(t[0])]), Strict(), told=told)
    assert program.run([torch.ones(2)])[0].tolist() == [3, 3]
    assert told == [
        "runs without a CUDA graph: recording failed: RuntimeError: operation not permitted when stream is capturing"
    ]


def test_an_error_of_the_program_is_its_own() -> None:
    def fails(tensors: Sequence[torch.Tensor]) -> Sequence[Any]:
        raise ValueError("of the program")

    with pytest.raises(ValueError, match="of the program"):
        replayed(Compiled(fails)).run([torch.ones(2)])


def test_obstacles() -> None:
    x = torch.randn(3, 4)
    assert obstacle(graph_of(lambda x: torch.sin(x), x)) == ""
    dynamic = graph_of(lambda x: torch.sin(x), x, dynamic_shapes=({0: Dim.DYNAMIC},))
    assert obstacle(dynamic).startswith("sizes are dynamic: input ")
    packed = graph_of(lambda x: ~x, torch.ones(2, 3, dtype=torch.bool))
    GraphBuilder(packed, packed.output).txgraph.token_index(packed.inputs[0])  # as passes do
    assert obstacle(packed).startswith("the device is asked for a number: %token_index_default = txgraph::token_index")
    moved = graph_of(lambda x: (x.to("meta"), x), x)
    assert obstacle(moved).startswith("it is on several devices: input ")


def test_targets() -> None:
    with pytest.raises(ValueError, match=r"'cuda_graphs'.* is for CUDA devices, and the target is cpu"):
        recorder_for(Target("cpu"))
    if not torch.cuda.is_available():
        assert recorder_for(Target("cuda", arch="sm_90")) is None
    graph = graph_of(lambda x: torch.sin(x), torch.ones(2))
    made = with_cuda_graphs(Compiled(lambda tensors: tensors), graph, None, True, print)
    assert made.choices == {"CUDA graphs": "the device is not here: none recorded"}


def test_it_is_refused_on_a_cpu() -> None:
    with pytest.raises(ValueError, match="leave the option out, or move the model first"):
        txgraph.optimize(Linear(), args=(torch.ones(2, 4),), backend="reference", options=ON)


# -- the whole road ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "backend",
    [
        "reference",
        "inductor",
        pytest.param("tvm", marks=pytest.mark.skipif(not is_installed(), reason="no Apache TVM")),
    ],
)
def test_models(optimized: Callable[..., Any], backend: str) -> None:
    model, recorder, x = MLP(), StandIn(), torch.randn(3, 4)
    fast = optimized(model, recorder, choose_backend(backend), args=(x,))
    assert (recorder.recorded, recorder.replayed) == (1, 1), "what is judged is what will run"
    for _ in range(3):
        x = torch.randn(3, 4)
        assert_as_eager(fast(x), model, x)
    assert (recorder.recorded, recorder.replayed) == (1, 4)
    assert not fast.report.fallbacks
    (graph,) = fast.report.graphs
    assert graph.choices["CUDA graphs"] == "recorded; inputs copied: 1, written where they are: 0; outputs cloned"


def test_what_another_process_kept(
    optimized: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TXGRAPH_CACHE", "1")
    monkeypatch.setenv("TXGRAPH_CACHE_DIR", str(tmp_path))
    x, recorders = torch.randn(3, 4), [StandIn(), StandIn()]
    for recorder in recorders:
        model = MLP()
        fast = optimized(model, recorder, Keeps(), args=(x,))
        assert_as_eager(fast(x + 1), model, x + 1)
        assert (recorder.recorded, recorder.replayed) == (1, 2)
    assert fast.report.graphs[0].cached


def test_sizes_that_vary_run_without_and_the_report_says_so(optimized: Callable[..., Any]) -> None:
    model, recorder = MLP(), StandIn()
    fast = optimized(model, recorder)
    for rows in (3, 5, 3, 7):
        x = torch.randn(rows, 4)
        assert_as_eager(fast(x), model, x)
    assert recorder.recorded == 1
    (fallback,) = fast.report.fallbacks
    assert fallback.reason == "runs without a CUDA graph: sizes are dynamic: input x"


def test_weights_that_change(optimized: Callable[..., Any]) -> None:
    model, recorder, x = Linear(), StandIn(), torch.randn(3, 4)
    fast = optimized(model, recorder, args=(x,))
    with torch.no_grad():
        model.layer.weight.mul_(2)
    assert_as_eager(fast(x), model, x)
    assert recorder.recorded == 1, "the same memory"
    model.layer.weight.data = torch.randn(4, 4)
    assert_as_eager(fast(x), model, x)
    assert recorder.recorded == 2, "compiled anew"


def test_replays_are_judged(optimized: Callable[..., Any]) -> None:
    """What was recorded is wrong: the program that it was made of is used, and the report says so."""
    model, x = MLP(), torch.randn(3, 4)
    fast = optimized(model, Forgetful(), args=(x,))
    assert_as_eager(fast(x), model, x)
    (fallback,) = fast.report.fallbacks
    assert fallback.what == "CUDA graphs"
    assert fallback.reason.startswith("what it recorded broke a gate, the program runs as it is: G1")
    assert "CUDA graphs" not in fast.report.graphs[0].choices


@pytest.mark.parametrize(
    "make",
    [ReferenceBackend, WritesInPlace, lambda: choose_backend("inductor")],
    ids=["copied back", "in place", "inductor"],
)
def test_models_that_write(optimized: Callable[..., Any], make: Callable[[], Any]) -> None:
    model, eager, recorder = Running(), Running(), StandIn()
    fast = optimized(model, recorder, make(), args=(torch.randn(2, 4), torch.zeros(2, 4)))
    assert model.calls.item() == 0
    for _ in range(2):
        cache, expected = torch.zeros(2, 4), torch.zeros(2, 4)
        for _ in range(3):
            x = torch.randn(2, 4)
            torch.testing.assert_close(fast(x, cache), eager(x, expected))
            torch.testing.assert_close(cache, expected)
            torch.testing.assert_close(model.calls, eager.calls)
    assert recorder.replayed >= 4
    assert not fast.report.fallbacks
    strided, expected = torch.zeros(4, 2).t(), torch.zeros(2, 4)
    torch.testing.assert_close(fast(x, strided), eager(x, expected))
    torch.testing.assert_close(strided, expected)


def test_decoding(optimized: Callable[..., Any]) -> None:
    torch.manual_seed(0)
    sizes = {"n_layer": 2, "n_embd": 16, "n_head": 2, "vocab_size": 50, "eos_token_id": None, "bos_token_id": None}
    model, recorder = GPT2LMHeadModel(GPT2Config(**sizes)).eval(), StandIn()
    fast = optimized(model, recorder, WritesInPlace())
    options = {"max_new_tokens": 12, "do_sample": False, "pad_token_id": 0}
    for first in (5, 30):
        prompt = torch.tensor([[first, 17, 40]])
        assert torch.equal(fast.generate(prompt, **options), model.generate(prompt, **options))
    # Of 11 steps all but the first replay, in each text; and both graphs replay for their check.
    assert recorder.replayed == 2 + 2 * 10
    assert not fast.report.fallbacks
