"""Check rewrite rules by themselves, on graphs that are made for them."""

from txgraph.check.program import Program
from txgraph.check.run import Checked, check, check_own
from txgraph.check.tensors import VALUES

__all__ = ["VALUES", "Checked", "Program", "check", "check_own"]
