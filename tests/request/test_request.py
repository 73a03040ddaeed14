"""Requests: what is refused, what is expanded, and that JSON loses nothing."""

from __future__ import annotations

import dataclasses
import json
import re

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlxdiff.errors import RequestError
from mlxdiff.request import NOISE_SOURCES, SAMPLERS, SCHEDULES, Lora, Request
from mlxdiff.request.declarations import declared

text = st.text(st.characters(exclude_categories=["Cs"]), max_size=40)
seeds = st.integers(0, 2**64 - 1)
requests = st.builds(
    Request,
    prompt=st.one_of(text, st.lists(text, min_size=1, max_size=3).map(tuple)),
    negative_prompt=st.none() | text,
    n_images=st.integers(1, 9),
    steps=st.none() | st.integers(1, 1000),
    guidance_scale=st.none() | st.floats(0, 1e6),
    seed=st.none() | seeds,
    height=st.none() | st.integers(8, 4096),
    width=st.none() | st.integers(8, 4096),
    sampler=st.none() | st.sampled_from(SAMPLERS),
    schedule=st.none() | st.sampled_from(SCHEDULES),
    strength=st.none() | st.floats(0, 1),
    rng=st.sampled_from(NOISE_SOURCES),
    model=st.none() | text,
    guidance_start=st.none() | st.floats(0, 0.4),
    guidance_end=st.none() | st.floats(0.5, 1),
    cache_interval=st.none() | st.integers(1, 1000),
    token_merging=st.none() | st.floats(0, 0.75),
)


@given(requests)
def test_json_gives_the_same_request_back(request):
    written = request.to_json()
    assert Request.from_json(written) == request
    assert written.isascii()
    assert written == json.dumps(json.loads(written), sort_keys=True, separators=(",", ":"))


@given(requests, requests, st.sets(st.sampled_from([item.name for item in declared(Request)])))
def test_replaced_is_what_dataclasses_make(request, other, names):
    assert len(request.prompts) == len(request.batch_places)  # what was computed is computed again
    values = {name: getattr(other, name) for name in names}
    try:
        wanted = dataclasses.replace(request, **values)
    except RequestError as error:
        with pytest.raises(RequestError, match=re.escape(str(error))):
            request.replaced(**values)
        return
    made = request.replaced(**values)
    assert made == wanted
    assert made.prompts == wanted.prompts
    assert made.batch_places == wanted.batch_places


def test_replaced_checks_what_it_is_given_and_settles_it():
    request = Request(prompt="a", steps=7)
    with pytest.raises(RequestError, match="steps is 0"):
        request.replaced(steps=0)
    with pytest.raises(RequestError, match="2 seeds for 1 images"):
        request.replaced(seed=(1, 2))
    with pytest.raises(RequestError, match="Guidance starts at 1 and ends at 1"):
        request.replaced(guidance_start=1)
    for names in (("steps", "guidance_scale"), ("guidance_scale", "steps")):
        with pytest.raises(RequestError, match="steps is -1"):
            request.replaced(**dict.fromkeys(names, -1))
    with pytest.raises(TypeError, match="step"):
        request.replaced(step=3)
    made = request.replaced(sampler="DPM++ 2M Karras", lora="x.safetensors,scale=2")
    assert (made.sampler, made.schedule, made.lora) == ("dpmpp_2m", "karras", (Lora("x.safetensors", 2.0),))
    assert request == Request(prompt="a", steps=7)


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"steps": 0}, "steps is 0"),
        ({"steps": -3}, "steps is -3"),
        ({"steps": 2.5}, "steps is 2.5"),
        ({"steps": True}, "steps is True"),
        ({"n_images": 0}, "n_images is 0"),
        ({"height": -8}, "height is -8"),
        ({"guidance_scale": float("nan")}, "guidance_scale is nan"),
        ({"guidance_scale": -1}, "guidance_scale is -1"),
        ({"guidance_scale": 10**400}, "guidance_scale is a number of over 60 digits"),
        ({"steps": 10**5000}, "steps is a number of over 60 digits"),
        ({"guidance_scale": float("inf")}, "guidance_scale is inf"),
        ({"width": 10**6}, "width is 1000000"),
        ({"n_images": 10**9}, "n_images is 1000000000"),
        ({"sampler": ["ddim"]}, "no sampler ['ddim']"),
        ({"strength": 1.5}, "strength is 1.5"),
        ({"seed": -2}, "seed is -2"),
        ({"seed": 2**64}, "seed is"),
        ({"seed": (1, 2)}, "2 seeds for 1 images"),
        ({"sampler": "eular"}, "no sampler 'eular'"),
        ({"schedule": "k"}, "no schedule 'k'"),
        ({"rng": "cuda"}, "no rng 'cuda'"),
        ({"prompt": 5}, "prompt is int"),
        ({"prompt": ()}, "list of prompts is empty"),
        ({"prompt": ("a", None)}, "prompt is NoneType"),
        ({"negative_prompt": 1}, "negative_prompt is int"),
        ({"image": ["a"]}, "image is list"),
        ({"model": 3}, "model is int"),
        ({"quantize": 5}, "quantize is 5"),
        ({"quantize": True}, "quantize is True"),
        ({"guidance_start": -0.1}, "guidance_start is -0.1"),
        ({"guidance_end": 1.1}, "guidance_end is 1.1"),
        ({"guidance_end": float("nan")}, "guidance_end is nan"),
        ({"guidance_start": 0.5, "guidance_end": 0.5}, "starts at 0.5 and ends at 0.5"),
        ({"guidance_start": 1}, "starts at 1 and ends at 1"),
        ({"guidance_end": 0}, "starts at 0 and ends at 0"),
        ({"cache_interval": 0}, "cache_interval is 0"),
        ({"cache_interval": 2.0}, "cache_interval is 2.0"),
        ({"token_merging": 0.8}, "token_merging is 0.8"),
        ({"token_merging": -0.1}, "token_merging is -0.1"),
        ({"token_merging": True}, "token_merging is True"),
    ],
)
def test_what_cannot_be_rendered_is_refused_in_two_sentences(values, words):
    with pytest.raises(RequestError) as caught:
        Request(**values)
    assert words in caught.value.problem
    assert caught.value.problem.endswith(".")
    assert caught.value.remedy.endswith(".")
    assert caught.value.exit_code == 2


@pytest.mark.parametrize("value", [0, 0.0])
def test_zero_is_a_seed_and_a_guidance_scale(value):
    request = Request(seed=0, guidance_scale=value)
    assert request.seeds == (0,)
    assert request.guidance_scale == 0
    assert '"seed":0' in request.to_json()


def test_each_prompt_is_drawn_n_images_times_with_seeds_that_count_on():
    request = Request(prompt=["a", "b"], n_images=2, seed=7)
    assert request.prompts == ("a", "a", "b", "b")
    assert request.seeds == (7, 8, 9, 10)
    assert request.single(2) == Request(prompt="b", seed=9)
    assert request.batch_size == 4


@pytest.mark.parametrize("text", ["", "[]", "3", '{"prompt": "a", "colour": 1}', "[" * 100_000, '{"steps": "4"}'])
def test_text_that_is_no_request_is_refused(text):
    with pytest.raises(RequestError):
        Request.from_json(text)


def test_samplers_named_without_mlx_are_those_that_exist():
    from mlxdiff.diffusion import samplers

    assert tuple(samplers.SAMPLERS) == SAMPLERS


def test_a_seed_of_minus_one_is_none():
    assert Request("a cat", seed=-1) == Request("a cat")
    item = next(item for item in declared(Request) if item.name == "seed")
    assert item.kind.parse("seed", " -1 ") is None
    for seed in (-2, [-1, 3], -1.5, np.array([-1, -1])):
        with pytest.raises(RequestError, match="seed"):
            Request(("a", "b"), seed=seed)
