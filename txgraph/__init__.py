"""txgraph: make a Transformer faster by rewriting its compute graph, with every step checked.

>>> import torch, txgraph
>>> model = torch.nn.TransformerEncoderLayer(32, 4, batch_first=True).eval()
>>> fast = txgraph.optimize(model, backend="reference")
>>> fast(torch.randn(2, 5, 32)).shape
torch.Size([2, 5, 32])
"""

from txgraph import ir
from txgraph.bisect import Culprit, bisect
from txgraph.check import Checked, check
from txgraph.errors import (
    BackendFailed,
    CaptureFailed,
    CheckFailed,
    GuardFailed,
    InvalidGraph,
    PassFailed,
    TxgraphError,
    UnsupportedOp,
    VerificationFailed,
)
from txgraph.explain import Explanation
from txgraph.ir import Kernel
from txgraph.lossy import Budget
from txgraph.optimize import optimize
from txgraph.optimized_model import OptimizedModel
from txgraph.options import BackendOptions, Target
from txgraph.passes import default_pipeline
from txgraph.pipeline import Pipeline
from txgraph.profile import Profile
from txgraph.progress import show_progress
from txgraph.report import Report
from txgraph.retraining import compress
from txgraph.rewrite import Accept, Match, NodePass, Pass, PassContext, Reject, Rewrite, RewritePass

__version__ = "0.1.0"

__all__ = [
    "Accept",
    "BackendFailed",
    "BackendOptions",
    "Budget",
    "CaptureFailed",
    "CheckFailed",
    "Checked",
    "Culprit",
    "Explanation",
    "GuardFailed",
    "InvalidGraph",
    "Kernel",
    "Match",
    "NodePass",
    "OptimizedModel",
    "Pass",
    "PassContext",
    "PassFailed",
    "Pipeline",
    "Profile",
    "Reject",
    "Report",
    "Rewrite",
    "RewritePass",
    "Target",
    "TxgraphError",
    "UnsupportedOp",
    "VerificationFailed",
    "bisect",
    "check",
    "compress",
    "default_pipeline",
    "ir",
    "optimize",
    "show_progress",
]
