"""Numeric checks against eager and a float64 oracle."""

from txgraph.verify.gates import GateResult, check_gates
from txgraph.verify.ledger import Ledger, LedgerEntry
from txgraph.verify.local_error import LocalError
from txgraph.verify.oracle import Reference, reference
from txgraph.verify.verifier import StageRecord, Verifier

__all__ = [
    "GateResult",
    "Ledger",
    "LedgerEntry",
    "LocalError",
    "Reference",
    "StageRecord",
    "Verifier",
    "check_gates",
    "reference",
]
