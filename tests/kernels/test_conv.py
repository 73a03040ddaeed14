"""Convolution against torch's in double precision: MLX's own, and the extension's with each instruction set."""

from __future__ import annotations

import mlx.core as mx
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from arrays import nchw, normal, relative_error

from mlxdiff.kernels import native
from mlxdiff.kernels.conv import conv2d

extension = native.serving()
FORMS = ["plain"] if extension is None else ["plain", *extension.instruction_sets()]

# (batch, height, width, channels, out_channels), kernel, stride, padding: Winograd's algorithm takes those of 3, 1 that
# are large enough; sizes are no multiples of its tiles, and channels none of a vector's or a panel's.
CASES = [
    ((1, 8, 8, 16, 16), 3, 1, 1),
    ((2, 19, 9, 5, 3), 3, 1, 1),
    ((1, 33, 30, 131, 70), 3, 1, 1),
    ((3, 10, 11, 300, 33), 3, 1, 1),
    ((2, 10, 11, 24, 40), 3, 1, 0),
    ((1, 8, 9, 8, 4), 3, 1, 2),
    ((1, 1, 1, 33, 17), 3, 1, 1),
    ((1, 1, 13, 40, 31), 3, 1, 1),
    ((2, 4, 5, 700, 24), 3, 1, 1),
    ((2, 9, 9, 12, 20), 3, 2, 1),
    ((1, 9, 8, 12, 20), 3, 2, 0),
    ((1, 20, 17, 4, 40), 3, 2, 1),
    ((1, 5, 6, 77, 90), 1, 1, 0),
    ((1, 6, 7, 8, 8), 2, 1, 0),
    ((0, 6, 7, 8, 8), 3, 1, 1),
    ((1, 9, 9, 4, 8), 5, 1, 2),
]


@pytest.fixture(params=FORMS)
def form(request, monkeypatch):
    """MLX's own operations, or the extension with one of its instruction sets."""
    if request.param == "plain":
        monkeypatch.setattr(native, "serving", lambda *_: None)
        yield request.param
        return
    before = extension.instruction_set()
    extension.use_instruction_set(request.param)
    yield request.param
    extension.use_instruction_set(before)


@pytest.fixture
def threads():
    """Sets the number of threads; OpenBLAS may need as many as there were, so that they come back."""
    before = extension.threads()
    yield extension.set_threads
    extension.set_threads(before)


def arrays(shape, kernel):
    batch, height, width, channels, out_channels = shape
    weight = normal(out_channels, kernel, kernel, channels, seed=1, scale=(kernel * kernel * channels) ** -0.5)
    return normal(batch, height, width, channels), weight, normal(out_channels, seed=2)


def exact(x, weight, bias, stride, padding):
    added = None if bias is None else torch.from_numpy(bias).double()
    out = F.conv2d(nchw(x).double(), nchw(weight).double(), added, stride=stride, padding=padding)
    return out.permute(0, 2, 3, 1).numpy()


@pytest.mark.usefixtures("form")
@pytest.mark.parametrize(("shape", "kernel", "stride", "padding"), CASES)
def test_conv2d_equals_torch(shape, kernel, stride, padding):
    x, weight, bias = arrays(shape, kernel)
    for b in (bias, None):
        got = conv2d(mx.array(x), mx.array(weight), None if b is None else mx.array(b), stride=stride, padding=padding)
        wanted = exact(x, weight, b, stride, padding)
        assert got.shape == wanted.shape
        if got.size:
            assert relative_error(got, wanted) < 5e-6


@pytest.mark.usefixtures("form")
def test_conv2d_of_a_large_layer_keeps_its_digits():
    """As many channels as a UNet has, and inputs that are positive, as behind SiLU."""
    x, weight, bias = arrays((1, 16, 16, 640, 64), 3)
    x = np.abs(x)
    got = conv2d(mx.array(x), mx.array(weight), mx.array(bias), padding=1)
    assert relative_error(got, exact(x, weight, bias, 1, 1)) < 5e-6


@pytest.mark.usefixtures("form")
def test_inputs_may_lie_anyhow():
    x, weight, bias = arrays((2, 18, 12, 20, 24), 3)
    got = conv2d(
        mx.array(x.transpose(3, 1, 2, 0).copy()).transpose(3, 1, 2, 0)[:, ::2],
        mx.array(weight.transpose(0, 3, 1, 2).copy()).transpose(0, 2, 3, 1),
        mx.array(bias),
        padding=1,
    )
    assert relative_error(got, exact(x[:, ::2], weight, bias, 1, 1)) < 5e-6


@pytest.mark.skipif(extension is None, reason="the extension is off")
class TestExtension:
    @pytest.mark.parametrize("shape", [(2, 40, 36, 48, 20), (1, 3, 5, 48, 20)])
    def test_threads_do_not_change_a_bit(self, threads, shape):
        x, weight, bias = (mx.array(a) for a in arrays(shape, 3))
        one, two = [(threads(n), np.array(extension.convolve(x, weight, bias, 1, 1)))[1] for n in (1, 2)]
        np.testing.assert_array_equal(one, two)

    def test_what_is_not_finite_stays_in_its_image_and_reaches_its_neighbours(self):
        x, weight, bias = arrays((2, 16, 16, 8, 8), 3)
        x[1, 5, 5, 0] = np.nan
        got = np.array(extension.convolve(*(mx.array(a) for a in (x, weight, bias)), 1, 1))
        assert np.isfinite(got[0]).all()
        assert np.isnan(got[1, 4:7, 4:7]).all()

    def test_it_is_lazy(self):
        # Some 4 TB, were they computed.
        y = extension.convolve(mx.zeros((1, 99999, 99999, 100)), mx.ones((100, 3, 3, 100)), None, 1, 1)
        assert y.shape == (1, 99999, 99999, 100)

    @pytest.mark.parametrize(
        ("x", "weight", "stride", "padding"),
        [
            ((8, 8, 4), (4, 3, 3, 4), 1, 1),
            ((1, 8, 8, 4), (4, 3, 3, 5), 1, 1),
            ((1, 8, 8, 4), (4, 3, 2, 4), 1, 1),
            ((1, 8, 8, 4), (4, 5, 5, 4), 1, 1),
            ((1, 2, 8, 4), (4, 3, 3, 4), 1, 0),
            ((1, 8, 8, 4), (4, 3, 3, 4), 0, 1),
        ],
    )
    def test_what_does_not_fit_is_refused(self, x, weight, stride, padding):
        with pytest.raises(ValueError, match=r"channels|square|does not fit"):
            extension.convolve(mx.zeros(x), mx.zeros(weight), None, stride, padding)

    def test_it_is_chosen_for_what_networks_have(self, monkeypatch):
        monkeypatch.setattr("mlxdiff.kernels.conv.plain", None)
        for kernel, stride in ((1, 1), (3, 1), (3, 2)):
            conv2d(mx.zeros((1, 8, 8, 4)), mx.zeros((4, kernel, kernel, 4)), stride=stride, padding=kernel // 2)
