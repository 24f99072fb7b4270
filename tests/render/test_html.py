"""The page in a real browser: it opens, can be searched and toggled, and says what a node is."""

from __future__ import annotations

import hashlib
import re
import shutil
import xml.etree.ElementTree as ET
from collections.abc import Iterator
from importlib import resources
from pathlib import Path

import pytest
import torch
from playwright.sync_api import Browser, Page, sync_playwright
from torch import nn

import txgraph
from tests.render.models import Block, Stack, X, stages
from tests.small import MLP, graph_of
from txgraph.ir import Graph
from txgraph.passes.precision.int8 import Int8
from txgraph.render import Picture, Stages, render

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium")


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])  # root has none
        yield started
        started.close()


class Opened:
    """A page that is open, with all that the browser complained of."""

    def __init__(self, browser: Browser, path: Path) -> None:
        self.page: Page = browser.new_page(viewport={"width": 1400, "height": 900})
        self.complaints: list[str] = []
        self.requests: list[str] = []
        self.page.on("console", lambda message: self.complaints.append(message.text))
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))
        self.page.on("request", lambda request: self.requests.append(request.url))
        self.page.goto(path.as_uri())
        self.page.wait_for_selector("#drawing svg")

    def nodes(self) -> list[str]:
        """The first line of each drawn box."""
        return [node.locator("text").first.text_content() or "" for node in self.page.locator("#drawing g.node").all()]

    def details(self) -> str:
        return self.page.locator("#details").inner_text()

    def click(self, text: str) -> None:
        self.page.locator("#drawing g.node", has_text=text).first.click()

    def search(self, words: str) -> list[str]:
        self.page.fill("#search", words)
        return [item.inner_text() for item in self.page.locator("#found li").all()]

    def shows_what_is_selected(self) -> bool:
        """Whether the middle of the selected box is in the frame that is looked at."""
        box = self.page.locator("#drawing g.selected").bounding_box()
        frame = self.page.locator("#drawing").bounding_box()
        assert box is not None
        assert frame is not None
        x, y = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
        return frame["x"] < x < frame["x"] + frame["width"] and frame["y"] < y < frame["y"] + frame["height"]


def write(run: Stages, folder: Path, **asked: str) -> Path:
    return render(run, folder / "stack.html", Picture(**asked), "A <b>")  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("page")


@pytest.fixture(scope="module")
def path(folder: Path) -> Path:
    return write(stages(Stack(8, 8), X), folder)


@pytest.fixture
def opened(browser: Browser, path: Path) -> Iterator[Opened]:
    page = Opened(browser, path)
    yield page
    page.page.close()
    assert page.complaints == []
    assert page.requests == [path.as_uri()]  # it loads nothing


def test_it_opens_with_the_diff(opened: Opened) -> None:
    assert opened.page.title() == opened.page.locator("h1").inner_text() == "A <b>"
    assert "linear, gelu" in opened.nodes()  # struck out: what was fused
    assert {"fused", "removed", "unchanged"} <= set(opened.page.locator("#legend").inner_text().split("\n"))
    assert "fuse-linear-activation" in opened.details()
    assert "2 ×" in opened.details()


def test_before_and_after(opened: Opened) -> None:
    opened.page.click("text=before")
    assert {"gelu", "clone"} <= set(opened.nodes())
    opened.page.click("nav >> text=after")
    assert "txgraph::linear_activation" in opened.nodes()
    assert not {"gelu", "clone"} & set(opened.nodes())
    pressed = opened.page.locator("nav button[aria-pressed=true]").all_inner_texts()
    assert pressed == ["after"]


def test_a_click_says_what_a_node_is(opened: Opened) -> None:
    opened.page.click("nav >> text=before")
    opened.click("gelu")
    told = opened.details()
    assert "fused by fuse-linear-activation" in told
    assert "f32[2, 4]" in told
    assert "layers.0" in told
    assert re.search(r"models\.py:\d+", told)
    assert "return x + self.copy(torch.nn.functional.gelu(self.out(hidden)))" in told
    assert opened.page.locator("g.selected").count() == 1
    opened.page.click("nav >> text=after")  # what it became is selected there
    assert "%linear_activation" in opened.details()


def test_a_fused_node_says_what_it_was_made_of(opened: Opened) -> None:
    opened.click("linear_activation")
    told = opened.details()
    assert "Made of" in told
    assert told.index("linear_activation") < told.index("Made of") < told.index("%gelu = gelu(")


def test_a_search_finds_a_node_and_goes_there(opened: Opened) -> None:
    assert opened.search("nothing like it") == ["nothing found"]
    found = opened.search("gelu layers.0")
    assert any("linear_activation" in item for item in found)
    opened.page.press("#search", "Enter")
    assert opened.shows_what_is_selected()
    assert "gelu" in opened.details()
    assert opened.page.locator("#found").is_hidden()
    assert any("tanh" in item for item in opened.search("models.py return x.tanh"))  # by its source line


def test_modules_open_and_close(opened: Opened) -> None:
    opened.page.click("nav >> text=before")
    count = len(opened.nodes())
    opened.page.click("text=close all")
    assert len(opened.nodes()) < count
    assert any("x2" in node for node in opened.nodes())
    assert "gelu" not in opened.nodes()
    (item, *_) = opened.search("gelu")
    opened.page.press("#search", "Enter")  # opens what it is in
    assert "gelu" in item
    assert "gelu" in opened.nodes()
    opened.page.click("text=open all")
    assert len(opened.nodes()) == count


def test_a_double_click_opens_a_group(opened: Opened) -> None:
    opened.page.click("text=close all")
    opened.page.locator("#drawing g.closed").first.dblclick()
    assert opened.page.locator("#details button").inner_text() == "close"
    opened.page.click("#details button")
    assert opened.page.locator("#details button").inner_text() == "open"


def test_texts_fit_into_their_boxes(opened: Opened) -> None:
    """Whatever font the browser has."""
    for node in opened.page.locator("#drawing g.node").all():
        outline = node.locator("polygon, path").first.bounding_box()
        assert outline is not None
        for text in node.locator("text").all():
            box = text.bounding_box()
            assert box is not None
            assert box["x"] > outline["x"] - 1
            assert box["x"] + box["width"] < outline["x"] + outline["width"] + 1


def test_the_wheel_zooms_and_fit_shows_all(opened: Opened) -> None:
    box = "document.querySelector('#drawing svg').getAttribute('viewBox').split(' ').map(Number)"
    home = opened.page.evaluate(box)
    opened.page.locator("#drawing").hover()
    opened.page.mouse.wheel(0, -400)
    opened.page.wait_for_function(f"({box})[2] < {home[2] * 0.9}")
    opened.page.click("text=fit")
    assert opened.page.evaluate(box) == home


def test_changes_lead_to_their_nodes(opened: Opened) -> None:
    opened.page.locator("#details tr", has_text="fuse-linear-activation").click()
    assert "fused by fuse-linear-activation" in opened.details()


def test_the_page_is_what_was_asked_for(browser: Browser, folder: Path) -> None:
    page = Opened(browser, write(stages(Stack(8, 8), X), folder, view="after", focus="layers.1"))
    assert page.page.locator("nav button[aria-pressed=true]").inner_text() == "after"
    assert "tanh" not in page.nodes()  # outside of the focus
    page.page.close()


def test_an_optimized_model_tells_all(browser: Browser, tmp_path: Path) -> None:
    fast = txgraph.optimize(Stack(8, 8).eval(), (X,), backend="reference", verify="rewrites")
    results = Path(__file__).parents[2] / "benchmarks" / "results" / "cpu.json"
    page = Opened(browser, fast.render(tmp_path / "model.html", benchmark=results))
    titles = page.page.locator("#tables > details > summary").all_inner_texts()
    assert titles[:2] == ["Passes", "Verification"]
    assert {"Ledger", "Near misses", "Kernels", "Seconds", "Benchmark", "Report"} <= set(titles)
    row = page.page.locator("#tables tr", has_text="openvino").first.locator("td").all_inner_texts()
    assert row[:2] == ["bert-base-1x128", "openvino"]
    assert float(row[2]) > 1
    page.page.locator("#drawing g.fused").first.click()
    assert "against float64" in page.details()
    assert page.complaints == []
    page.page.close()


def test_a_budget_is_told(browser: Browser, tmp_path: Path) -> None:
    """Both charts, the places, and at the nodes that lossy passes made which method it was and what it costs."""
    data = [{"x": torch.randn(3, 4, generator=torch.Generator().manual_seed(at))} for at in range(4)]
    passes = txgraph.default_pipeline().append(Int8())
    budget = txgraph.Budget(relative_error=0.3)
    fast = txgraph.optimize(
        MLP(), kwargs=data[0], passes=passes, budget=budget, calibration=data, backend="reference", verify="off"
    )
    page = Opened(browser, fast.render(tmp_path / "model.html"))
    assert page.page.locator("#tables > details > summary").first.inner_text() == "Budget"
    section = page.page.locator("#tables > details").first
    assert section.locator("svg").count() == 2
    chart = section.locator("svg").first.bounding_box()
    assert chart is not None
    assert chart["height"] > 100
    assert "chosen: 2 of 2 steps" in (section.text_content() or "")
    assert "on 2 calls held out: relative error" in section.inner_text()
    rows = [row.locator("td").all_inner_texts() for row in section.locator("table tr").all()[1:]]
    assert sorted(row[:2] for row in rows) == [["down", "int8, migration 0.5"], ["up", "int8, migration 0.5"]]
    assert fast.report.budget is not None
    for each in fast.report.budget.spent:
        page.search(f"int8_linears {each.module}.weight")
        page.page.press("#search", "Enter")
        assert f"int8, migration 0.5 at {each.module}: changes the outputs by {each.error:.1e} alone" in page.details()
    assert page.complaints == []
    page.page.close()
    assert ET.fromstring(fast.render_budget(tmp_path / "budget.svg").read_text(encoding="utf-8")) is not None


def test_kernels_and_measured_times(browser: Browser, tmp_path: Path) -> None:
    model = nn.Sequential(nn.Linear(64, 64), nn.GELU(), nn.LayerNorm(64)).eval()
    fast = txgraph.optimize(model, (torch.ones(8, 64),), profile=True)
    page = Opened(browser, fast.render(tmp_path / "model.html", level="kernel"))
    assert page.page.locator("nav button[aria-pressed=true]").inner_text() == "kernels"
    (norm,) = [kernel for kernel in fast.kernels() if "layer_norm" in kernel.name]
    assert norm.name in (page.page.locator("#drawing").text_content() or "")
    page.search("layer_norm")
    page.page.press("#search", "Enter")
    assert re.search(r"time\s+[\d.]+% \([\d.]+ .s measured\)", page.details())
    page.page.locator("#details details.kernel summary").click()
    assert norm.code.strip()[:100] in page.details()
    page.page.close()


def test_a_notebook_shows_the_page(browser: Browser, tmp_path: Path) -> None:
    fast = txgraph.optimize(Stack(8, 8).eval(), (X,), backend="reference", verify="off")
    shown = fast._repr_html_()
    assert shown is not None
    (tmp_path / "notebook.html").write_text(f"<!DOCTYPE html><meta charset=utf-8>{shown}", encoding="utf-8")
    page = browser.new_page()
    page.goto((tmp_path / "notebook.html").as_uri())
    page.frame_locator("iframe").locator("#drawing svg").wait_for()
    page.close()
    assert txgraph.optimize(Stack(8)).eval()._repr_html_() is None


def test_a_graph_of_thousands_of_nodes_is_closed_at_first(browser: Browser, tmp_path: Path) -> None:
    class Deep(nn.Module):
        """Layers of which no two are equal."""

        def __init__(self) -> None:
            super().__init__()
            self.layers = nn.ModuleList(Stack(5 + at) for at in range(150))

        def forward(self, x):  # type: ignore[no-untyped-def]
            for layer in self.layers:
                x = layer(x)
            return x

    graph: Graph = graph_of(Deep().eval(), X)
    assert len(graph.calls()) > 1200
    page = Opened(browser, write(Stages(graph, graph.copy()), tmp_path, view="after"))
    assert len(page.nodes()) < 10
    page.search("gelu layers.77")
    page.page.press("#search", "Enter")
    assert page.shows_what_is_selected()
    assert "layers.77" in page.details()
    page.page.close()


def test_any_text_is_text(browser: Browser, tmp_path: Path) -> None:
    """Names of modules and inputs are the user's."""
    run = stages(nn.Sequential(Block()), X)
    nasty = '</script><b x="1">&amp; {d|e} \\n ä'
    path = render(run, tmp_path / "nasty.html", Picture(), nasty)
    page = Opened(browser, path)
    assert page.page.locator("h1").inner_text() == nasty
    assert page.page.title() == nasty
    assert page.complaints == []
    page.page.close()


def test_it_needs_no_graphviz(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    path = write(stages(Stack(8), X), tmp_path)
    assert path.name == "stack.html"
    assert path.stat().st_size < 3e6


def test_it_asks_for_nothing_from_outside(path: Path) -> None:
    page = path.read_text(encoding="utf-8")
    policy = re.search(r'http-equiv="Content-Security-Policy" content="([^"]*)"', page)
    assert policy is not None
    assert policy[1].startswith("default-src 'none';")
    assert not re.search(r"<(script|link|img|iframe)[^>]*(src|href)=", page)


def test_the_library_is_the_one_that_is_named() -> None:
    """With its licence and version in the note beside it."""
    web = resources.files("txgraph.render").joinpath("web")
    library = web.joinpath("viz-global.js").read_bytes()
    note = web.joinpath("README.md").read_text(encoding="utf-8")
    assert hashlib.sha256(library).hexdigest() in note
    version = re.search(rb"Viz\.js ([\d.]+)", library)
    assert version is not None
    assert f"{version[1].decode()}, `dist/viz-global.js`" in note
