"""`guidance_mode`: the CFG++ form of a sampler, by the name of the sampler itself."""

from __future__ import annotations

import numpy as np
import pytest

from mlxdiff import Request, StableDiffusion
from mlxdiff.catalogue import SAMPLERS
from mlxdiff.errors import RequestError


@pytest.fixture(scope="module")
def sd():
    return StableDiffusion("emoji", dtype="fp32")


@pytest.mark.parametrize("sampler", [row.name for row in SAMPLERS.values() if row.cfg_pp is not None])
def test_cfgpp_is_the_sampler_s_other_form(sd, sampler):
    form = SAMPLERS[sampler].cfg_pp
    asked = sd.resolve(Request("a cat", sampler=sampler, guidance_mode="cfgpp", seed=1))
    assert asked == sd.resolve(Request("a cat", sampler=form, seed=1))
    assert asked.sampler == form
    assert sd.resolve(asked) == asked
    assert sd.resolve(Request("a cat", sampler=sampler, guidance_mode="cfg", seed=1)).sampler == sampler
    with pytest.raises(RequestError, match=f"{form} is a CFG.. form.*it is {sampler}"):
        sd.resolve(Request("a cat", sampler=form, guidance_mode="cfg"))


def test_a_sampler_without_that_form_is_refused(sd):
    with pytest.raises(RequestError, match=r"heun has no CFG\+\+ form. These have one: .*euler"):
        sd.resolve(Request("a cat", sampler="heun", guidance_mode="cfgpp"))
    with pytest.raises(RequestError, match="cfgpp"):
        Request("a cat", guidance_mode="cfg++")


def test_the_checkpoint_s_own_sampler_has_it_too(sd):
    assert sd.resolve(Request("a cat", guidance_mode="cfgpp")).sampler == "ddim_cfg_pp"
    settings = {"guidance_scale": 0.8, "seed": 1, "steps": 4, "height": 32, "width": 32}
    *_, found = sd.generate_latents("a cat", guidance_mode="cfgpp", **settings)
    *_, expected = sd.generate_latents("a cat", sampler="ddim_cfg_pp", **settings)
    assert np.array_equal(np.array(found), np.array(expected))
