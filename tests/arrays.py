"""Random arrays for MLX and torch, and how far apart two results are."""

from __future__ import annotations

import mlx.core as mx
import numpy as np
import torch


def normal(*shape, seed=0, scale=1.0, shift=0.0) -> np.ndarray:
    return (np.random.default_rng(seed).standard_normal(shape) * scale + shift).astype(np.float32)


def nchw(array: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(array).permute(0, 3, 1, 2)


def nhwc(tensor: torch.Tensor) -> np.ndarray:
    return tensor.detach().permute(0, 2, 3, 1).numpy()


def relative_error(ours: mx.array, theirs: np.ndarray) -> float:
    ours = np.array(ours.astype(mx.float32))
    assert ours.shape == theirs.shape
    return float(np.abs(ours - theirs).max() / np.abs(theirs).max())


def psnr(ours: np.ndarray, theirs: np.ndarray) -> float:
    """Decibels for pictures in [0, 1]."""
    error = np.mean((np.asarray(ours, np.float64) - np.asarray(theirs, np.float64)) ** 2)
    return float("inf") if error == 0 else -10 * np.log10(error)
