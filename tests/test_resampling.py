"""Latents at other sizes beside torch's interpolate."""

from __future__ import annotations

import mlx.core as mx
import numpy as np
import pytest
import torch

from mlxdiff.catalogue import UPSCALERS, find_upscaler
from mlxdiff.resampling import resample

SIZES = [
    ((8, 12), (16, 24)),
    ((5, 7), (8, 11)),
    ((16, 16), (24, 20)),
    ((9, 8), (4, 6)),
    ((3, 3), (3, 3)),
    ((1, 2), (7, 2)),
]
IN_LATENTS = [row for row in UPSCALERS.values() if row.in_latents]


@pytest.mark.parametrize("row", IN_LATENTS, ids=lambda row: row.name)
@pytest.mark.parametrize(("old", "new"), SIZES, ids=str)
def test_every_way_is_torchs(row, old, new):
    latents = torch.randn(2, 4, *old, generator=torch.Generator().manual_seed(0))
    options = {"antialias": row.antialias} if row.kernel in ("bilinear", "bicubic") else {}
    expected = torch.nn.functional.interpolate(latents, size=new, mode=row.kernel, **options)
    found = resample(mx.array(latents.permute(0, 2, 3, 1).numpy()), *new, row.kernel, antialias=row.antialias)
    assert (
        np.abs(np.array(found).transpose(0, 3, 1, 2) - expected.numpy()).max() < 1e-5
    )  # torch counts coordinates in fp32


@pytest.mark.parametrize("factor", [1.1, 1.25, 1.5, 1.7, 2, 3.3])
def test_nearest_falls_on_torchs_side_of_every_edge(factor):
    line = torch.arange(64.0).reshape(1, 1, 64, 1)
    for kernel in ("nearest", "nearest-exact"):
        expected = torch.nn.functional.interpolate(line, size=(int(64 * factor), 1), mode=kernel)
        found = resample(mx.array(line.permute(0, 2, 3, 1).numpy()), int(64 * factor), 1, kernel)
        assert np.array_equal(np.array(found)[0, :, 0, 0], expected.numpy()[0, 0, :, 0])


def test_upscalers_have_a1111s_names():
    names = {"Latent": "latent", "Latent (bicubic antialiased)": "latent-bicubic-antialiased", "None": "lanczos"}
    assert {name: find_upscaler(name).name for name in names} == names
    assert find_upscaler("R-ESRGAN 4x+") is None
