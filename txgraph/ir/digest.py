"""A tensor's type, sizes and values as a short text."""

from __future__ import annotations

import hashlib

import torch


def digest_of(tensor: torch.Tensor) -> str:
    """Equal for equal tensors, and for others as good as never."""
    values = tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy()
    digest = hashlib.sha256(f"{tensor.dtype}{list(tensor.shape)}".encode())
    digest.update(values.data)
    return digest.hexdigest()
