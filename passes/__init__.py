"""The built-in passes and the default pipeline."""

from __future__ import annotations

from txgraph.passes.canonicalize.normalize_arithmetic import NormalizeArithmetic
from txgraph.passes.canonicalize.normalize_linear import NormalizeLinear
from txgraph.passes.canonicalize.normalize_matmul import NormalizeMatmul
from txgraph.passes.canonicalize.normalize_views import NormalizeViews
from txgraph.passes.canonicalize.remove_empty_pieces import RemoveEmptyPieces
from txgraph.passes.canonicalize.remove_identities import RemoveIdentities
from txgraph.passes.canonicalize.remove_pointless_views import RemovePointlessViews
from txgraph.passes.fold.combine_constant_terms import CombineConstantTerms
from txgraph.passes.fold.eliminate_common_subexpressions import EliminateCommonSubexpressions
from txgraph.passes.fold.eliminate_dead_code import EliminateDeadCode
from txgraph.passes.fold.fold_batch_norm import FoldBatchNorm
from txgraph.passes.fold.fold_constants import FoldConstants
from txgraph.passes.fold.fold_scale_into_linear import FoldScaleIntoLinear
from txgraph.passes.fuse.fuse_attention import FuseAttention
from txgraph.passes.fuse.fuse_expert_linears import FuseExpertLinears
from txgraph.passes.fuse.fuse_gelu import FuseGelu
from txgraph.passes.fuse.fuse_layer_norm import FuseLayerNorm
from txgraph.passes.fuse.fuse_linear_activation import FuseLinearActivation
from txgraph.passes.fuse.fuse_rms_norm import FuseRmsNorm
from txgraph.passes.fuse.fuse_shared_input_linears import FuseSharedInputLinears
from txgraph.passes.fuse.fuse_silu import FuseSilu
from txgraph.passes.fuse.fuse_softmax import FuseSoftmax
from txgraph.passes.fuse.group_query_heads import GroupQueryHeads
from txgraph.passes.fuse.merge_attention_heads import MergeAttentionHeads
from txgraph.passes.fuse.merge_low_rank_update import MergeLowRankUpdate
from txgraph.passes.fuse.recognize_masks import RecognizeMasks
from txgraph.passes.fuse.recognize_windows import RecognizeWindows
from txgraph.passes.layout.add_head_axis import AddHeadAxis
from txgraph.passes.layout.move_selections_up import MoveSelectionsUp
from txgraph.passes.layout.reassociate_matmuls import ReassociateMatmuls
from txgraph.passes.low_rank.low_rank import LowRank
from txgraph.passes.padding.remove_padding import RemovePadding
from txgraph.passes.padding.zero_padding import ZeroPadding
from txgraph.passes.precision.bfloat16 import BFloat16
from txgraph.passes.precision.int8 import Int8
from txgraph.passes.precision.lower_fake_quantization import LowerFakeQuantization
from txgraph.passes.precision.weight_only import WeightOnly
from txgraph.passes.sparsity.prune_channels import PruneChannels
from txgraph.passes.sparsity.prune_heads import PruneHeads
from txgraph.passes.sparsity.remove_dead_channels import RemoveDeadChannels
from txgraph.passes.sparsity.remove_dead_heads import RemoveDeadHeads
from txgraph.passes.sparsity.threshold_attention import ThresholdAttention
from txgraph.passes.sparsity.window_attention import WindowAttention
from txgraph.passes.then import Then
from txgraph.pipeline import Pipeline
from txgraph.rewrite import LossyPass


def normal_form() -> Pipeline:
    """What comes first, so that every later rule has one form to look for."""
    return Pipeline(
        (
            NormalizeArithmetic(),
            NormalizeMatmul(),
            NormalizeViews(),
            RemoveIdentities(),
            RemovePointlessViews(),
            RemoveEmptyPieces(),
            NormalizeLinear(),
            EliminateCommonSubexpressions(),
        )
    )


def default_pipeline() -> Pipeline:
    """The passes that ``optimize`` runs, in order; every one is exact."""
    return Pipeline(
        (
            *normal_form().passes,
            # What is not needed need not be optimized.
            MoveSelectionsUp(),
            # Masks are recognised while they are still formulas, not folded tables; attention comes before, so
            # that the masks of recovered attention are seen, too.
            FuseSoftmax(),
            FuseAttention(),
            EliminateCommonSubexpressions(),  # heads then have one mask
            MergeAttentionHeads(),
            AddHeadAxis(),
            RecognizeMasks(),
            GroupQueryHeads(),  # knows then which masks all queries share
            RecognizeWindows(),
            FoldConstants(),
            FuseLayerNorm(),
            FuseRmsNorm(),
            FuseGelu(),
            FuseSilu(),
            FuseExpertLinears(),
            # Weights: what one linear can do is taken out of the others before they are joined, which copies them.
            ReassociateMatmuls(),
            MergeLowRankUpdate(),
            FoldBatchNorm(),
            FoldScaleIntoLinear(),
            CombineConstantTerms(),
            # Folded scales and fused activations first: they say what is zero. Before linears are joined, which takes
            # weights of other widths, and before what follows is measured.
            RemoveDeadHeads(),
            RemoveDeadChannels(),
            # After CSE: linears that share an input are then seen to do so.
            FuseSharedInputLinears(),
            FuseLinearActivation(),
            # Of what is left to do, only for tokens; after all fusions, which need not know packed forms.
            RemovePadding(),
            LowerFakeQuantization(),  # the linears are then what they will be, and few passes know quantized ones
            # What the passes left: transposes of transposes, views of views.
            NormalizeViews(),
            RemovePointlessViews(),
            EliminateCommonSubexpressions(),
            EliminateDeadCode(),
        )
    )


def lossy_methods() -> tuple[LossyPass, ...]:
    """What a budget is spent on: the passes that a search tries at each place, with their settings."""
    return (
        WeightOnly(bits=8),
        WeightOnly(bits=4, group=32),
        Int8(migration=0.5),
        Int8(migration=0.75),
        BFloat16(),
        LowRank(error=0.1),
        LowRank(error=0.05),
        LowRank(error=0.02),
        PruneChannels(fraction=0.25),
        PruneHeads(fraction=0.25),
        Then(LowRank(error=0.05), Int8(migration=0.5)),
        Then(PruneChannels(fraction=0.25), Int8(migration=0.5)),
        Then(PruneHeads(fraction=0.25), Int8(migration=0.5)),
        WindowAttention(window=128),
        WindowAttention(window=512),
        ThresholdAttention(threshold=1e-3),
        ThresholdAttention(threshold=1e-2),
    )


def for_every_call(pipeline: Pipeline) -> Pipeline:
    """The passes whose results do not depend on the values of a call's padding mask."""
    name = RemovePadding().name
    return pipeline.without(name) if name in pipeline.names else pipeline


def with_zero_padding(pipeline: Pipeline) -> Pipeline:
    """The pipeline for ``padding="zeros"``.

    Raises:
        ValueError: it has no pass ``remove-padding``.
    """
    name = RemovePadding().name
    if name not in pipeline.names:
        raise ValueError(f'padding="zeros" is for the pass {name!r}, which this pipeline does not have')
    return pipeline.insert_before(name, ZeroPadding())
