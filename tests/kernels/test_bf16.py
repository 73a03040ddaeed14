"""The extension's operations in bf16: sums are fp32, so that each result is the exact one rounded, or nearly.

The oracle is torch in double precision on the same bf16 numbers; torch's own bf16 is what the error is held to.
"""

from __future__ import annotations

import math

import mlx.core as mx
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from arrays import normal

from mlxdiff import StableDiffusion, backend
from mlxdiff.errors import MlxdiffWarning
from mlxdiff.kernels import native

extension = native.serving()
if extension is None or not extension.has_bf16():
    pytest.skip("this processor has no products of bf16", allow_module_level=True)

ROUNDING = 2**-8  # of one number, relative, at most; about 1.7e-3 in the root mean square


def compare(ours, theirs, *shapes):
    """Our error is no larger than torch's in bf16, but for rounding the result."""
    arrays = [mx.array(normal(*shape, seed=i)).astype(mx.bfloat16) for i, shape in enumerate(shapes)]
    tensors = [torch.from_numpy(np.array(a.astype(mx.float32))) for a in arrays]
    exact = theirs(*(t.double() for t in tensors)).numpy()
    rival = theirs(*(t.bfloat16() for t in tensors)).double().numpy()
    got = ours(*arrays)
    assert got.dtype == mx.bfloat16
    found = np.array(got.astype(mx.float32))
    assert found.shape == exact.shape
    error, allowed = (np.linalg.norm(a - exact) / np.linalg.norm(exact) for a in (found, rival))
    assert error < max(1.1 * allowed, 2.1e-3)


def heads_apart(q, k, v, heads, mask=None):
    q, k, v = (a.unflatten(-1, (heads, -1)).transpose(1, 2) for a in (q, k, v))
    return F.scaled_dot_product_attention(q, k, v, attn_mask=mask).transpose(1, 2).flatten(2)


@pytest.mark.parametrize("shape", [(7,), (2, 5, 13), (3, 64, 640)])
def test_activations(shape):
    compare(extension.silu, F.silu, shape)
    compare(extension.gelu, F.gelu, shape)
    compare(extension.quick_gelu, lambda x: x * torch.sigmoid(1.702 * x), shape)


@pytest.mark.parametrize("width", [1, 13, 320])
def test_geglu_and_residual(width):
    compare(extension.geglu, lambda x: x[..., :width] * F.gelu(x[..., width:]), (5, 2 * width))
    compare(extension.add_biased, lambda x, y, bias: x + (y + bias), (9, width), (9, width), (width,))


@pytest.mark.parametrize("channels", [3, 16, 77, 320])
def test_norms(channels):
    compare(
        lambda x, w, b: extension.layer_norm(x, w, b, 1e-5),
        lambda x, w, b: F.layer_norm(x, (channels,), w, b, 1e-5),
        *((33, channels), (channels,), (channels,)),
    )
    groups = next(n for n in (32, 11, 3, 1) if channels % n == 0 and channels > n)
    for silu in (False, True):
        compare(
            lambda x, w, b, s, silu=silu: extension.group_norm(x, w, b, groups, 1e-5, s, silu=silu),
            lambda x, w, b, s, silu=silu: (F.silu if silu else lambda y: y)(
                F.group_norm((x + s).movedim(-1, 1), groups, w, b, 1e-5).movedim(1, -1)
            ),
            *((1, 9, 7, channels), (channels,), (channels,), (1, channels)),
        )


def test_attention_of_parts_that_begin_at_an_odd_place():
    def part(x):
        return x[..., 1:33]

    compare(
        lambda q, k, v: extension.attention(part(q), part(k), part(v), 2),
        lambda q, k, v: heads_apart(part(q), part(k), part(v), 2),
        *((2, 19, 37), (2, 35, 37), (2, 35, 37)),
    )


@pytest.mark.parametrize(("rows", "depth", "outputs"), [(1, 64, 7), (5, 33, 9), (300, 320, 100), (1030, 1302, 31)])
def test_linear(rows, depth, outputs):
    compare(extension.linear, F.linear, (rows, depth), (outputs, depth), (outputs,))


@pytest.mark.parametrize(
    ("size", "channels", "outputs", "kernel", "stride", "padding"),
    [(33, 131, 70, 3, 1, 1), (30, 64, 64, 3, 1, 1), (8, 640, 64, 3, 1, 1), (20, 4, 40, 3, 2, 1), (7, 12, 20, 1, 1, 0)],
)
def test_convolution(size, channels, outputs, kernel, stride, padding):
    def theirs(x, w, b):
        x, w = (a.permute(0, 3, 1, 2) for a in (x, w))
        return F.conv2d(x, w, b, stride=stride, padding=padding).permute(0, 2, 3, 1)

    compare(
        lambda x, w, b: extension.convolve(x, w, b, stride, padding),
        theirs,
        *((2, size, size - 1, channels), (outputs, kernel, kernel, channels), (outputs,)),
    )


@pytest.mark.parametrize(
    ("queries", "keys", "heads", "size"),
    [(77, 77, 2, 64), (100, 77, 5, 40), (300, 701, 3, 80), (7, 3, 1, 512), (31, 29, 3, 5), (257, 1, 1, 2)],
)
def test_attention(queries, keys, heads, size):
    width = heads * size
    compare(
        lambda q, k, v: extension.attention(q, k, v, heads),
        lambda q, k, v: heads_apart(q, k, v, heads),
        *((2, queries, width), (2, keys, width), (2, keys, width)),
    )


def test_attention_with_a_causal_mask():
    seen = np.triu(np.full((79, 79), -math.inf, np.float32), 1)
    mask = mx.array(seen).astype(mx.bfloat16)

    def theirs(q, k, v):
        return heads_apart(q, k, v, 2, torch.from_numpy(seen).to(q.dtype))

    compare(lambda q, k, v: extension.attention(q, k, v, 2, mask), theirs, *[(1, 79, 32)] * 3)


def test_what_is_not_finite_stays_so():
    x = mx.array([math.nan, math.inf, -math.inf, 3e38, 1.0]).astype(mx.bfloat16)
    got = np.array(extension.silu(x).astype(mx.float32))
    assert np.isnan(got[0])
    assert got[1] == math.inf
    assert abs(got[4] - 0.7310586) < ROUNDING


def test_arrays_of_two_types_are_refused():
    with pytest.raises(ValueError, match="one type"):
        extension.linear(mx.zeros((2, 2)), mx.zeros((2, 2), mx.bfloat16), None)
    assert native.serving(mx.zeros(1), mx.zeros(1, mx.bfloat16)) is None


def test_an_older_instruction_set_has_no_bf16():
    before = extension.instruction_set()
    extension.use_instruction_set("avx2")
    try:
        assert not backend.is_fast(mx.bfloat16)
        with pytest.warns(MlxdiffWarning, match="bf16 is about 50 times slower"):
            StableDiffusion("emoji", dtype="bf16")
    finally:
        extension.use_instruction_set(before)
    assert backend.is_fast(mx.bfloat16)
    assert not backend.is_fast(mx.float16)


def test_pictures_in_bf16_are_those_in_fp32_nearly():
    settings = {"seed": 3, "steps": 10, "height": 128, "width": 128}
    in_fp32, in_bf16 = (
        np.asarray(StableDiffusion("emoji", dtype=dtype).generate("a red apple", **settings)[0], np.float64)
        for dtype in ("fp32", "bf16")
    )
    assert 10 * np.log10(255**2 / np.mean((in_fp32 - in_bf16) ** 2)) > 25
