"""Comparison of txgraph with its peers on one machine: reproducible, and never part of the tests.

python -m benchmarks.compare     speed, errors, cold compile seconds and memory, side by side
python -m benchmarks.page        docs/benchmarks.md, the pictures and the README's table, from the results
python -m benchmarks.overhead    what an optimized model costs per call beside its compiled code
python -m benchmarks.memory      peak memory of compiling
"""
