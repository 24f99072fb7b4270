"""Kernels of our own for NVIDIA GPUs, in Triton: torch for CPUs comes without it, and so nothing imports them early."""
