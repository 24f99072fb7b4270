"""Seeded faults, to see that the checks of the product can fail: docs/mutants.md."""
