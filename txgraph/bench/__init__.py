"""Several ways to run one model, side by side on this machine: the harness behind ``txgraph bench``.

Every competitor has a process of its own (thread pools that share a process disturb each other). All processes of
a row are alive at once and wait, except the one that is at work. In each round every competitor has one turn, so
that a slow moment of the machine hits all of them: ratios are worth more than times.
"""

from txgraph.bench.comparison import Settings, compare_row, conditions
from txgraph.bench.competitors import COMPETITORS, DEFAULT_COMPETITORS, Competitor, Run, ZeroPadding
from txgraph.bench.notes import notes
from txgraph.bench.processes import Worker, WorkerFailed
from txgraph.bench.references import look_up, resolve, with_arguments
from txgraph.bench.row import Inputs, Made, Row

__all__ = [
    "COMPETITORS",
    "DEFAULT_COMPETITORS",
    "Competitor",
    "Inputs",
    "Made",
    "Row",
    "Run",
    "Settings",
    "Worker",
    "WorkerFailed",
    "ZeroPadding",
    "compare_row",
    "conditions",
    "look_up",
    "notes",
    "resolve",
    "with_arguments",
]
