"""What a recorder keeps of a render."""

from __future__ import annotations

import mlx.core as mx
import numpy as np
import pytest

from mlxdiff.batch.recorder import Recorder
from mlxdiff.batch.render import Denoised, denoise
from mlxdiff.pipeline import StableDiffusion
from mlxdiff.request import Request


def test_the_last_latents_are_the_pictures_own():
    sd = StableDiffusion("emoji")
    request = sd.resolve(Request(("a cat", "a dog", "a cow"), seed=4, steps=2))
    recorder = Recorder()
    for event in denoise(sd, request, indices=(0, 1, 2)):
        recorder.keep(event)
        last = np.array(event.latents)
    for index in range(3):
        latents, denoised = recorder.take(index)
        assert latents.shape == denoised.shape == (2, 1, *last.shape[1:])
        np.testing.assert_array_equal(latents[-1, 0], last[index])
        with pytest.raises(KeyError):
            recorder.take(index)
    alone = list(sd.denoise(request.single(2)))
    np.testing.assert_allclose(denoised[:, 0], [np.array(step.denoised[0]) for step in alone], atol=1e-3)


def test_of_a_batch_that_is_tried_again_the_last_try_is_kept():
    recorder = Recorder()
    for value, step in ((1, 1), (2, 2), (3, 1), (4, 2)):
        latents = mx.full((1, 1, 1, 4), float(value))
        recorder.keep(Denoised(step, 2, 1, latents, latents, (7,)))
    latents, _ = recorder.take(7)
    assert latents[:, 0, 0, 0, 0].tolist() == [3, 4]
