"""Residual streams against torch, with biases added at once and owed."""

from __future__ import annotations

import mlx.core as mx
import numpy as np
import pytest
import torch
from arrays import normal, relative_error

from mlxdiff.kernels import stream as module
from mlxdiff.kernels.layer_norm import layer_norm
from mlxdiff.kernels.stream import Stream, add, add_linear, linear_of


@pytest.fixture(params=["here", "owing"], autouse=True)
def each_way(request, monkeypatch):
    """The test runs as this machine computes, and as NVIDIA GPUs do."""
    if request.param == "owing":
        monkeypatch.setattr(module, "_owes", lambda _: True)


def in_torch(*arrays: np.ndarray) -> list[torch.Tensor]:
    return [torch.from_numpy(array).double() for array in arrays]


@pytest.mark.parametrize(("rows", "width"), [(6, 16), (1, 8), (70, 320)])
def test_branches_are_added_as_torch_does(rows, width):
    x, inner, branch = normal(rows, width), normal(rows, 3 * width, seed=1), normal(rows, width, seed=2)
    first, second = (normal(width, 3 * width, seed=i, scale=width**-0.5) for i in (3, 4))
    biases = [normal(width, seed=i) for i in (5, 6, 7, 11)]
    out, gain = normal(2 * width, width, seed=8, scale=width**-0.5), normal(width, seed=9)
    out_bias = normal(2 * width, seed=10)

    stream = add_linear(Stream(mx.array(x)), mx.array(inner), mx.array(first), mx.array(biases[0]))
    stream = add(stream, mx.array(branch), mx.array(biases[1]))
    for weight, bias in ((second, biases[2]), (second, biases[3])):
        stream = add_linear(stream, mx.array(inner), mx.array(weight), mx.array(bias))
    product, bias = linear_of(stream, mx.array(out), mx.array(out_bias))

    tx, tinner, tbranch, tfirst, tsecond, tout, tgain = in_torch(x, inner, branch, first, second, out, gain)
    wanted = tx + tinner @ (tfirst + 2 * tsecond).T + tbranch + sum(in_torch(*biases))
    assert relative_error(stream.whole(), wanted.numpy()) < 2e-6
    normalized = torch.nn.functional.layer_norm(wanted, (width,), tgain, tgain, 1e-5)
    got = layer_norm(stream.x, mx.array(gain), mx.array(gain), 1e-5, stream.owed)
    assert relative_error(got, normalized.numpy()) < 5e-6
    assert relative_error(product + bias, (wanted @ tout.T + in_torch(out_bias)[0]).numpy()) < 5e-6


def test_what_is_owed_is_computed_once_a_compilation():
    weight, bias, x = (mx.array(normal(*shape)) for shape in ((8, 8), (8,), (4, 8)))
    seen: list[mx.array | None] = []

    def function(x: mx.array) -> mx.array:
        stream = add_linear(add_linear(Stream(x), x, weight, bias), x, weight, bias)
        seen.append(stream.owed)
        return stream.whole()

    compiled = mx.compile(function)
    first, again = compiled(x), compiled(x)
    assert len(seen) == 1
    np.testing.assert_array_equal(first, again)
    assert relative_error(first, np.array(x + 2 * (x @ weight.T + bias))) < 1e-6
