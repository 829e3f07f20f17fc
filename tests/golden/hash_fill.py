"""Weights and inputs that any program can make alike: a hash of a tensor's name and of the place of each value.

    k = crc32(name); h = (i + k * 0x9E3779B1) mod 2**32, mixed as murmur3 does at its end; H = h / 2**31 - 1

See README.md for what the values here were compared with.
"""

from __future__ import annotations

import math
from zlib import crc32

import numpy as np
import torch
from torch import Tensor, nn


def hashed(name: str, shape: tuple[int, ...]) -> np.ndarray:
    """H of every place, row by row: float64 in [-1, 1)."""
    start = crc32(name.encode()) * 0x9E3779B1 % 2**32
    h = np.arange(math.prod(shape), dtype=np.uint32) + np.uint32(start)
    h ^= h >> np.uint32(16)
    h *= np.uint32(0x85EBCA6B)
    h ^= h >> np.uint32(13)
    h *= np.uint32(0xC2B2AE35)
    h ^= h >> np.uint32(16)
    return (h / 2**31 - 1).reshape(shape)


def inputs(name: str, shape: tuple[int, ...], scale: float = 1.0) -> Tensor:
    """U(name, shape, scale): values in [-scale, scale), float32."""
    return torch.from_numpy((scale * hashed(name, shape)).astype(np.float32))


def weight(name: str, shape: tuple[int, ...]) -> Tensor:
    """V(name): values of a size that suits what ``name`` stands for, float32 (int64 for counters)."""
    last = name.rsplit(".", 1)[-1]
    if last == "num_batches_tracked":
        return torch.zeros(shape, dtype=torch.int64)
    h = hashed(name, shape)
    if name.endswith("fbsp.fc"):
        value = np.arange(len(h)) + 0.1 * h
    elif name.endswith(("fbsp.m", "fbsp.fb")) or last == "running_var":
        value = 1 + 0.5 * h
    elif not shape:
        value = np.ones(())
    elif len(shape) == 1:
        value = 1 + 0.1 * h if last == "weight" else 0.1 * h
    elif last == "positional_embedding" or name.endswith("token_embedding.weight"):
        value = 0.02 * h
    else:
        fan = shape[0] if last in ("proj", "text_projection") else math.prod(shape[1:])
        value = math.sqrt(3 / fan) * h
    return torch.from_numpy(value.astype(np.float32))


def fill(module: nn.Module, prefix: str = "") -> nn.Module:
    """Set every weight of ``module`` to V of its name behind ``prefix``; window and empty tensors stay. Eval mode."""
    with torch.no_grad():
        for name, tensor in module.state_dict().items():
            if name != "window" and tensor.numel():
                tensor.copy_(weight(prefix + name, tuple(tensor.shape)))
    return module.eval()


def check(actual: Tensor, first: list[float], mean: float, l2: float, tolerance: float = 1e-4) -> None:
    """Compare with six first values, the mean and the norm of all, relative to the largest of the six and the norm."""
    values = actual.detach().double().flatten()
    expected = torch.tensor(first, dtype=torch.float64)
    scale = max(float(expected.abs().max()), float(l2) / math.sqrt(len(values)))
    torch.testing.assert_close(values[: len(first)], expected, rtol=0, atol=tolerance * scale)
    torch.testing.assert_close(float(values.mean()), mean, rtol=tolerance, atol=tolerance * scale)
    torch.testing.assert_close(float(values.norm()), l2, rtol=tolerance, atol=0)
