"""Where MLX and torch compute here, how to wait for torch, and how to get back what both keep: they share a device."""

from __future__ import annotations

import gc
import sys

import mlx.core as mx

from mlxdiff import backend

TORCH_DEVICES = {"CPU": "cpu", "CUDA": "cuda", "Metal": "mps"}


def torch_device() -> str:
    """The name of the device in torch that MLX computes on."""
    return TORCH_DEVICES[backend.backend_name()]


def dtype_name() -> str:
    """numpy's and torch's name of the type that both compute in: half precision on a GPU alone."""
    return "float16" if backend.is_gpu() else "float32"


def wait_for_torch() -> None:
    """Returns when torch's device has done all that was asked of it."""
    torch = sys.modules["torch"]
    if torch_device() == "cuda":
        torch.cuda.synchronize()
    elif torch_device() == "mps":
        torch.mps.synchronize()


def free() -> None:
    """Gives freed buffers of a GPU back to it, where MLX and torch would each keep their own.

    On a CPU both keep theirs: the system would hand them out again zeroed, page by page.
    """
    gc.collect()
    if not backend.is_gpu():
        return
    mx.clear_cache()
    if "torch" in sys.modules:
        torch = sys.modules["torch"]
        (torch.cuda if torch_device() == "cuda" else torch.mps).empty_cache()
