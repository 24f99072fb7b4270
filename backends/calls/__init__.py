"""What compiled graphs call: kernels of libraries and our own, for linears and attention, chosen by stopwatch.

Backends generate the code between these calls, and share them.
"""
