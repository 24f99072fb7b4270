"""The built-in passes and the default pipeline."""

from __future__ import annotations

from txgraph.passes.canonicalize.normalize_linear import NormalizeLinear
from txgraph.passes.canonicalize.normalize_views import NormalizeViews
from txgraph.passes.canonicalize.remove_identities import RemoveIdentities
from txgraph.passes.canonicalize.remove_pointless_views import RemovePointlessViews
from txgraph.passes.fold.eliminate_common_subexpressions import EliminateCommonSubexpressions
from txgraph.passes.fold.eliminate_dead_code import EliminateDeadCode
from txgraph.passes.fold.fold_constants import FoldConstants
from txgraph.passes.fuse.fuse_attention import FuseAttention
from txgraph.passes.fuse.fuse_layer_norm import FuseLayerNorm
from txgraph.passes.fuse.fuse_linear_activation import FuseLinearActivation
from txgraph.passes.fuse.fuse_rms_norm import FuseRmsNorm
from txgraph.passes.fuse.fuse_shared_input_linears import FuseSharedInputLinears
from txgraph.passes.fuse.recognize_masks import RecognizeMasks
from txgraph.pipeline import Pipeline


def default_pipeline() -> Pipeline:
    """The passes that ``optimize`` runs, in order; every one is exact."""
    return Pipeline(
        (
            # Normal form first, so that every later rule has one form to look for.
            NormalizeViews(),
            RemoveIdentities(),
            RemovePointlessViews(),
            NormalizeLinear(),
            EliminateCommonSubexpressions(),
            # Masks are recognised while they are still formulas, not folded tables; attention comes before, so
            # that the masks of recovered attention are seen, too.
            FuseAttention(),
            RecognizeMasks(),
            FoldConstants(),
            FuseLayerNorm(),
            FuseRmsNorm(),
            # After CSE: linears that share an input are then seen to do so.
            FuseSharedInputLinears(),
            FuseLinearActivation(),
            EliminateCommonSubexpressions(),
            EliminateDeadCode(),
        )
    )
