"""Which nodes a budget was spent on."""

from __future__ import annotations

from txgraph.ir import Graph
from txgraph.lossy import Spent
from txgraph.report import GraphReport
from txgraph.rewrite import Rewrite


def spent_on(graph: Graph, report: GraphReport) -> dict[str, str]:
    """Of nodes that lossy passes made: the method, and what it costs and gains, as far as that is known."""
    places = () if report.spending is None else report.spending.spent
    told: dict[str, str] = {}
    for record in report.passes:
        if record.lossy and record.status == "applied":
            own = [each for each in places if each.method == record.lossy]
            for rewrite in record.rewrites:
                found = [each for each in own if _is_of(rewrite, graph, each.module)]
                text = _text(found[0]) if len(found) == 1 else record.lossy
                told |= dict.fromkeys(rewrite.made, text)
    return told


def _is_of(rewrite: Rewrite, graph: Graph, module: str) -> bool:
    """Whether a rewrite is at the place of that name: that of its module, or of the modules of its weights."""
    if module == rewrite.module:
        return True
    first, *others = module.split(", ")
    named = {first, *(f"{first.rpartition('.')[0]}.{other}".lstrip(".") for other in others)}
    return named == _modules_of_weights(rewrite, graph)


def _modules_of_weights(rewrite: Rewrite, graph: Graph) -> set[str]:
    made = set(rewrite.made)
    constants = {
        str(source.target)
        for node in graph.nodes
        if node.name in made
        for source in node.all_input_nodes
        if source.op == "get_attr"
    }
    new = constants & set(graph.constants.sources)  # what the rewrite made; biases are the model's own
    return {origin.rpartition(".")[0] for origin in graph.constants.origins(new)}


def _text(spent: Spent) -> str:
    seconds = f"{spent.before * 1e6:.0f} µs before, {spent.after * 1e6:.0f} µs after"
    changes = f"changes the outputs by {spent.error:.1e} alone, {spent.share:.1%} of the squared error"
    return f"{spent.method} at {spent.module}: {changes}; {seconds}"
