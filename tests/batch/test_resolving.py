"""Lines of a prompt file resolved once a kind: the same as each alone."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from PIL import Image

from mlxdiff.batch.jobs import Batch, JobMaker
from mlxdiff.batch.models import Models
from mlxdiff.batch.naming import parse_output
from mlxdiff.batch.prompts import Entry
from mlxdiff.batch.resolving import Resolving
from mlxdiff.errors import InputError, MlxdiffWarning
from mlxdiff.hub import find_part
from mlxdiff.hub.shelf import store_folder
from mlxdiff.passes import stages
from mlxdiff.request import Request, Resolved

BASE = Request(prompt="a cat", model="emoji", seed=7)
PATTERN = parse_output("out/", several=True)


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


def test_a_second_pass_keeps_its_prompt_whatever_the_first_line_says(models, resolving, asked):
    """Of the first line both passes have one prompt, and of the next that it is resolved with they have not."""
    told = BASE.replaced(hires=2, hires_prompt="a cat")
    found = [resolving(told.replaced(prompt=prompt)) for prompt in ("a cat", "a dog")]
    assert len(asked) == 1
    made = JobMaker(lambda request: request, PATTERN).jobs  # type: ignore[arg-type, return-value]
    batch = Batch(0, tuple(job for one in found for job in made(Entry(one, None, "a line"))))
    for request in (*found, batch.request, models.resolve(told.replaced(prompt=("a cat", "a dog")))):
        first, second = (view for _, view in stages.views(request))
        assert first.prompts == request.prompts
        assert set(second.prompts) == {"a cat"}
        assert len(second.prompts) == len(request.prompts)


def test_a_lora_that_a_second_passs_prompt_names_may_come_later(resolving, tmp_path, monkeypatch):
    monkeypatch.setenv("MLXDIFF_HOME", str(tmp_path))
    told = BASE.replaced(hires=2, hires_prompt="a large cat <lora:later:0.5>")
    with pytest.warns(MlxdiffWarning, match="There is no LoRA for <lora:later:0.5>"):
        assert resolving(told).hashes is None
    store_folder("lora").mkdir(parents=True)
    shutil.copy(find_part("pixel-art", "lora"), store_folder("lora") / "later.safetensors")
    assert [name for name, _ in resolving(told).hashes or ()] == ["later"]


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
