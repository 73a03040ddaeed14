"""Lines of a prompt file resolved once a kind: the same as each alone."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from PIL import Image

from mlxdiff.batch.models import Models
from mlxdiff.batch.resolving import Resolving
from mlxdiff.errors import InputError
from mlxdiff.request import Request, Resolved

BASE = Request(prompt="a cat", model="emoji", seed=7)


@pytest.fixture(scope="module")
def models() -> Models:
    return Models()


@pytest.fixture
def asked() -> list[Request]:
    return []


@pytest.fixture
def resolving(models, asked) -> Resolving:
    def resolve(request: Request) -> Resolved:
        asked.append(request)
        return models.resolve(request)

    return Resolving(resolve)


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"steps": 3, "sampler": "DPM++ 2M Karras"},
        {"compat": "a1111", "hires": 2, "hires_prompt": "a large cat"},
        {"compat": "comfyui", "n_images": 3},
        {"n_images": 2, "rng": "philox"},
        {"prompt": ("a cat", "a dog")},
        {"lora": "pixel-art,scale=0.5"},
        {"prompt": "a cat <lora:pixel-art:0.5>"},
        {"prompt_syntax": "plain", "negative_prompt": "blurry"},
    ],
)
def test_what_is_resolved_is_what_each_line_alone_is(models, resolving, settings):
    for seed in (7, 2**64 - 1):
        for words in ("", " and a dog", " <lora:pixel-art:0.8>", " < 3"):
            request = BASE.replaced(**settings, seed=seed)
            if isinstance(request.prompt, str):
                request = request.replaced(prompt=request.prompt + words)
            alone, found = models.resolve(request), resolving(request)
            assert found == alone
            assert (found.passes, found.noise_levels) == (alone.passes, alone.noise_levels)
            assert (found.finished_size, found.seeds) == (alone.finished_size, alone.seeds)
            assert list(found.singles()) == list(alone.singles())


def test_a_thousand_lines_of_two_kinds_are_resolved_twice(resolving, asked):
    for i in range(1000):
        found = resolving(BASE.replaced(prompt=f"cat {i}", seed=i, steps=3 + i % 2))
        assert (found.prompt, found.seed, found.steps) == (f"cat {i}", i, 3 + i % 2)
    assert len(asked) == 2


def test_prompts_that_may_name_loras_are_resolved_each(resolving, asked):
    loras = [resolving(BASE.replaced(prompt=f"a cat <lora:pixel-art:{scale}>")).lora for scale in (0.5, 0.7)]
    assert [lora[0].scale for lora in loras if lora is not None] == [0.5, 0.7]
    assert len(asked) == 2


def test_without_a_seed_each_draws_its_own(resolving):
    drawn = {resolving(BASE.replaced(seed=None)).seed for _ in range(3)}
    assert len(drawn) == 3


def test_a_file_that_changes_or_goes_is_noticed(resolving, asked, tmp_path):
    path = Path(tmp_path / "photo.png")
    Image.new("RGB", (64, 64), "red").save(path)
    request = BASE.replaced(image=str(path))
    first = resolving(request)
    assert resolving(request.replaced(prompt="a dog")).hashes == first.hashes
    assert len(asked) == 1
    Image.new("RGB", (128, 64), "blue").save(path)
    second = resolving(request)
    assert second.hashes != first.hashes
    assert (second.width, first.width) == (128, 64)
    path.unlink()
    with pytest.raises(InputError, match=r"There is no picture .*photo.png"):
        resolving(request)


def test_what_is_kept_stays_small(models):
    resolving = Resolving(models.resolve)
    resolving._known = {BASE.replaced(steps=steps): ((), None) for steps in range(1, 1001)}  # type: ignore[dict-item]
    assert json.loads(resolving(BASE).to_json())["prompt"] == "a cat"
    assert len(resolving._known) == 1
