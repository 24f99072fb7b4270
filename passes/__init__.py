"""The built-in passes and the default pipeline."""

from __future__ import annotations

from txgraph.passes.canonicalize.remove_identities import RemoveIdentities
from txgraph.passes.fold.eliminate_common_subexpressions import EliminateCommonSubexpressions
from txgraph.passes.fold.eliminate_dead_code import EliminateDeadCode
from txgraph.passes.fold.fold_constants import FoldConstants
from txgraph.pipeline import Pipeline


def default_pipeline() -> Pipeline:
    """The passes that ``optimize`` runs, in order; every one is exact."""
    return Pipeline(
        (
            # Normal form first, so that every later rule has one form to look for.
            RemoveIdentities(),
            FoldConstants(),
            EliminateCommonSubexpressions(),
            EliminateDeadCode(),
        )
    )
