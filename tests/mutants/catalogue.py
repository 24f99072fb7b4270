"""All mutants, by area."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import chain

from tests.mutants.attention import ATTENTION
from tests.mutants.calls import CALLS
from tests.mutants.choices import CHOICES
from tests.mutants.compiled import BACKENDS, CAPTURE
from tests.mutants.graphs import CONTRACT, FOLDS, NORMAL_FORMS, VIEWS
from tests.mutants.linears import LINEARS
from tests.mutants.lossy import BUDGETS
from tests.mutants.mutant import Mutant
from tests.mutants.operators import ACTIVATIONS, NORMS
from tests.mutants.padding import PADDING
from tests.mutants.recordings import RECORDINGS
from tests.mutants.sparsity import SPARSITY
from tests.mutants.zeros import ZEROS

AREAS: Mapping[str, tuple[Mutant, ...]] = {
    "attention": ATTENTION,
    "norms": NORMS,
    "activations": ACTIVATIONS,
    "linears": LINEARS,
    "normal forms": NORMAL_FORMS,
    "views, casts and copies": VIEWS,
    "folding and moving": FOLDS,
    "padding": PADDING,
    "dead channels and heads": SPARSITY,
    "weights that are mostly zeros": ZEROS,
    "what a pass owes to the pipeline": CONTRACT,
    "under a budget": BUDGETS,
    "capture and mutations": CAPTURE,
    "backends": BACKENDS,
    "choice of a backend": CHOICES,
    "recorded graphs": RECORDINGS,
    "later calls": CALLS,
}
MUTANTS = tuple(chain.from_iterable(AREAS.values()))
