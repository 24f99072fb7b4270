"""Kernels of our own for NVIDIA GPUs, in Triton: only what needs their code imports this package, and Triton with it."""
