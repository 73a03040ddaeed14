"""Attention against torch's in double precision."""

from __future__ import annotations

import math

import mlx.core as mx
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from arrays import normal, relative_error

from mlxdiff.kernels import attention as module
from mlxdiff.kernels.attention import attention


def torch_attention(q, k, v, heads, mask=None):
    q, k, v = (torch.from_numpy(a).double().unflatten(-1, (heads, -1)).transpose(1, 2) for a in (q, k, v))
    mask = None if mask is None else torch.from_numpy(mask).double()
    return F.scaled_dot_product_attention(q, k, v, attn_mask=mask).transpose(1, 2).flatten(2).numpy()


@pytest.mark.usefixtures("each_form")
@pytest.mark.parametrize(
    ("batch", "queries", "keys", "heads", "size"),
    [(2, 16, 16, 4, 8), (1, 77, 77, 2, 16), (3, 33, 5, 1, 40), (2, 1, 9, 3, 4), (2, 64, 64, 1, 512), (1, 9, 1, 2, 8)],
)
@pytest.mark.parametrize("scale", [0.1, 3.0, 30.0])
def test_attention_equals_torch(batch, queries, keys, heads, size, scale):
    q = normal(batch, queries, heads * size, seed=1, scale=scale)
    k, v = normal(batch, keys, heads * size, seed=2), normal(batch, keys, heads * size, seed=3)
    got = attention(mx.array(q), mx.array(k), mx.array(v), heads=heads)
    assert relative_error(got, torch_attention(q, k, v, heads)) < 2e-5


@pytest.mark.usefixtures("plain_form")
@pytest.mark.parametrize("at_once", [1, 40, 700, 3000])
def test_attention_in_blocks_is_the_same(monkeypatch, at_once):
    q, k, v = (normal(2, n, 24, seed=n) for n in (37, 19, 19))
    mask = normal(1, 3, 37, 19)
    wanted = torch_attention(q, k, v, 3, mask)
    monkeypatch.setattr(module, "_SCORES_AT_ONCE", at_once)
    got = attention(mx.array(q), mx.array(k), mx.array(v), heads=3, mask=mx.array(mask))
    assert relative_error(got, wanted) < 1e-5


@pytest.mark.usefixtures("plain_form")
@pytest.mark.parametrize("mask_rows", [None, 1, 45])
def test_without_a_fused_kernel_scores_are_made_for_some_queries_at_a_time(monkeypatch, mask_rows):
    monkeypatch.setattr(module, "on_cpu", lambda _: False)
    monkeypatch.setattr(module, "_SCORE_BYTES", 2 * 3 * 60 * 4 * 8)  # eight queries
    lengths = []
    attend = mx.fast.scaled_dot_product_attention

    def watching(q, k, v, **options):
        lengths.append(q.shape[2])
        return attend(q, k, v, **options)

    monkeypatch.setattr(module.mx.fast, "scaled_dot_product_attention", watching)
    q, k, v = normal(2, 45, 3 * 16), normal(2, 60, 3 * 16, seed=1), normal(2, 60, 3 * 16, seed=2)
    mask = None if mask_rows is None else normal(mask_rows, 60, seed=3)
    got = attention(mx.array(q), mx.array(k), mx.array(v), heads=3, mask=None if mask is None else mx.array(mask))
    assert relative_error(got, torch_attention(q, k, v, 3, mask)) < 1e-5
    assert lengths == [8] * 5 + [5]


@pytest.mark.usefixtures("each_form")
@pytest.mark.parametrize("infinity", [-math.inf, -1e9])
def test_attention_with_a_causal_mask(infinity):
    q, k, v = (normal(2, 12, 32, seed=i) for i in range(3))
    mask = np.triu(np.full((12, 12), infinity, np.float32), 1)
    got = attention(mx.array(q), mx.array(k), mx.array(v), heads=4, mask=mx.array(mask))
    assert relative_error(got, torch_attention(q, k, v, 4, mask)) < 1e-5


def test_attention_that_overflows_fp16_is_upcast():
    q, k = (normal(1, 8, 16, seed=i, scale=300.0) for i in range(2))
    v = normal(1, 8, 16, seed=2)
    wanted = torch_attention(*(a.astype(np.float16).astype(np.float32) for a in (q, k, v)), 1)
    half = [mx.array(a).astype(mx.float16) for a in (q, k, v)]
    got = attention(*half, heads=1, upcast=True)
    assert got.dtype == mx.float16
    assert relative_error(got, wanted) < 2e-3
