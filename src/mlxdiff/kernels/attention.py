"""Scaled dot-product attention (Vaswani et al. 2017): MLX's own on a GPU, blocks that fit the cache on a CPU.

The extension has a kernel of its own; without it a CPU does the same in MLX's operations.
"""

from __future__ import annotations

import mlx.core as mx

from . import apple, native
from .activations import EXP_STRETCH, on_cpu, softmax_numerator

# Scores of attention kept at once on a CPU: 4 MiB, about what its caches hold.
_SCORES_AT_ONCE = 2**20

# Bytes of scores at once on a GPU without a fused kernel. The 16384 cells of a picture of 1024 pixels, all with all,
# would take 1 GiB in fp32.
_SCORE_BYTES = 2**26

# The head sizes for which Metal has a fused kernel in every MLX that we support.
_METAL_HEAD_SIZES = (64, 80, 128)


def attention(
    q: mx.array, k: mx.array, v: mx.array, *, heads: int, mask: mx.array | None = None, upcast: bool = False
) -> mx.array:
    """Scaled dot-product attention of q (B, T, D) to k and v (B, S, D), D = heads * head size; (B, T, D).

    `mask` is added to the scores and broadcasts to (B, heads, T, S). `upcast` demands scores in fp32, for networks
    whose scores pass what fp16 can hold.
    """
    if (extension := native.serving(q, k, v, mask)) is not None:
        return extension.attention(q, k, v, heads, mask)
    batch, length, width = q.shape
    size = width // heads
    q, k, v = (a.reshape(batch, -1, heads, size).transpose(0, 2, 1, 3) for a in (q, k, v))
    out = _attention_in_blocks(q, k, v, mask) if on_cpu(q) else _attention(q, k, v, mask, upcast)
    return out.transpose(0, 2, 1, 3).reshape(batch, length, width)


def self_attention(qkv: mx.array, *, heads: int, upcast: bool = False) -> mx.array:
    """Attention of tokens to each other: qkv (B, T, 3 D), queries, keys and values side by side -> (B, T, D)."""
    if on_cpu(qkv) or native.serving(qkv) is not None:
        q, k, v = mx.split(qkv, 3, axis=-1)
        return attention(q, k, v, heads=heads)
    batch, length, width = qkv.shape
    # One view of all heads, cut in three: each view costs as much time of the host as a small kernel.
    apart = qkv.reshape(batch, length, 3 * heads, -1).transpose(0, 2, 1, 3)
    q, k, v = mx.split(apart, 3, axis=1)
    out = _attention(q, k, v, None, upcast)
    return out.transpose(0, 2, 1, 3).reshape(batch, length, width // 3)


def _attention(q: mx.array, k: mx.array, v: mx.array, mask: mx.array | None, upcast: bool) -> mx.array:
    """q (B, heads, T, size), k and v (B, heads, S, size) -> (B, heads, T, size), by MLX's own function."""
    dtype, length, size = q.dtype, q.shape[2], q.shape[3]
    scale = size**-0.5
    padded = _padded_size(size, length)
    if padded > size:
        q, k, v = (mx.pad(a, [(0, 0), (0, 0), (0, 0), (0, padded - size)]) for a in (q, k, v))
    # Fused kernels keep scores in fp32 as it is; where MLX composes single operations, it does not.
    if upcast and not _is_fused(q):
        q, k, v = (a.astype(mx.float32) for a in (q, k, v))
    if mask is not None:
        mask = mask.astype(q.dtype)
    queries = length if _is_fused(q) else max(1, _SCORE_BYTES // (q.shape[0] * q.shape[1] * k.shape[2] * q.itemsize))
    rows: list[mx.array] = []
    for i in range(0, length, queries):
        some = q[:, :, i : i + queries]
        # Else MLX may begin all blocks before it ends one.
        some = some if not rows else mx.depends([some], [rows[-1]])[0]
        here = mask if mask is None or mask.shape[-2] == 1 else mask[..., i : i + queries, :]
        rows.append(mx.fast.scaled_dot_product_attention(some, k, v, scale=scale, mask=here))
    return (rows[0] if len(rows) == 1 else mx.concatenate(rows, axis=2))[..., :size].astype(dtype)


def _padded_size(size: int, length: int) -> int:
    """The head size to which zeros are added, so that a faster kernel takes it; the same where there is none."""
    if length < 1024 or not mx.metal.is_available():
        return size
    # SD 1.x has heads of 40. Padding to 64 saves writing the scores, which pays where they are many.
    return 64 if size < 64 else apple.head_size(size)


def _is_fused(q: mx.array) -> bool:
    """Whether MLX has one kernel for attention of q (B, heads, T, size), on Metal or on CUDA (Ampere and later)."""
    if mx.default_device() == mx.cpu:
        return False
    length, size = q.shape[2:]
    if mx.metal.is_available():
        return length > 8 and size in (*_METAL_HEAD_SIZES, apple.head_size(80))
    return length > 1 and size % 8 == 0 and size <= 128 and q.dtype != mx.float32


def _attention_in_blocks(q: mx.array, k: mx.array, v: mx.array, mask: mx.array | None) -> mx.array:
    """The same in fp32, in blocks of heads and queries whose scores fit the cache; sums come from a column of ones."""
    batch, heads, length, size = q.shape
    keys = k.shape[2]
    q, k, v = (a.reshape(batch * heads, -1, size) for a in (q * (size**-0.5 * EXP_STRETCH), k, v))
    v = mx.concatenate([v, mx.ones((*v.shape[:2], 1))], axis=-1)
    if mask is not None:
        mask = mx.broadcast_to(mask * EXP_STRETCH, (batch, heads, length, keys)).reshape(batch * heads, length, keys)
    heads_at_once = max(1, _SCORES_AT_ONCE // (length * keys))
    queries_at_once = max(1, min(length, _SCORES_AT_ONCE // keys))
    blocks = []
    for i in range(0, batch * heads, heads_at_once):
        some = slice(i, i + heads_at_once)
        rows = []
        for j in range(0, length, queries_at_once):
            scores = q[some, j : j + queries_at_once] @ k[some].swapaxes(1, 2)
            if mask is not None:
                scores = scores + mask[some, j : j + queries_at_once]
            rows.append(softmax_numerator(scores.max(axis=-1, keepdims=True) - scores) @ v[some])
        blocks.append(rows[0] if len(rows) == 1 else mx.concatenate(rows, axis=1))
    out = blocks[0] if len(blocks) == 1 else mx.concatenate(blocks, axis=0)
    return (out[..., :size] / out[..., size:]).reshape(batch, heads, length, size)
