"""What is let go where memory is scarce, and that the pictures stay the same."""

from __future__ import annotations

import os
import resource
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest
from mlx.utils import tree_flatten

from mlxdiff import Request, StableDiffusion, backend, memory
from mlxdiff.batch.encoded_ahead import encoded_ahead
from mlxdiff.batch.events import Written
from mlxdiff.batch.jobs import Batch, Job
from mlxdiff.batch.models import Models
from mlxdiff.batch.runner import run
from mlxdiff.batch.store import Store
from mlxdiff.errors import InputError, MlxdiffError, RequestError
from mlxdiff.models.unet_backbone import UNetBackbone
from mlxdiff.models.vae import VAEConfig


@pytest.fixture(autouse=True)
def cache_limit():
    before = mx.set_cache_limit(0)
    mx.set_cache_limit(before)
    yield
    mx.set_cache_limit(before)


@pytest.fixture
def scarce(monkeypatch):
    """Less than the built-in model's 55 MB of fp32 weights."""
    monkeypatch.setenv("MLXDIFF_MEMORY", "0.05")


def last(sd: StableDiffusion, prompt: str) -> mx.array:
    *_, latents = sd.generate_latents(prompt, seed=1, steps=2, guidance_scale=1)
    mx.eval(latents)
    return latents


def test_encoders_go_and_come_back_with_the_same_picture(monkeypatch):
    plenty = StableDiffusion("emoji").load()
    expected = [last(plenty, prompt) for prompt in ("a cat", "a dog")]
    assert plenty.networks.holds("encoder")
    monkeypatch.setenv("MLXDIFF_MEMORY", "0.05")
    sd = StableDiffusion("emoji").load()
    for prompt, latents in zip(("a cat", "a dog"), expected, strict=True):
        assert mx.array_equal(last(sd, prompt), latents)
        assert not sd.networks.holds("encoder")


@pytest.mark.usefixtures("scarce")
def test_freed_weights_are_no_longer_in_memory():
    sd = StableDiffusion("emoji", dtype="fp32")
    encoder = sd.networks.encoder
    mx.eval([network.parameters() for network in encoder.networks])
    held, size = mx.get_active_memory(), memory.size_of(*encoder.networks)
    assert size == sum(
        array.size * 4 for network in encoder.networks for _, array in tree_flatten(network.parameters())
    )
    del encoder
    sd.encode_ahead([sd.resolve(Request("a cat", seed=0))])
    assert mx.get_active_memory() < held - 0.9 * size


@pytest.mark.usefixtures("scarce")
def test_a_large_picture_is_decoded_in_strips_unasked_and_the_unet_goes_first(monkeypatch):
    sd = StableDiffusion("emoji", dtype="fp32").load()
    z = mx.array(np.random.default_rng(0).normal(size=(2, 12, 20, 4)).astype(np.float32))
    found = sd.decode(z)
    assert not sd.networks.holds("backbone")
    monkeypatch.delenv("MLXDIFF_MEMORY")
    plenty = StableDiffusion("emoji", dtype="fp32").load()
    np.testing.assert_allclose(np.array(found), np.array(plenty.decode(z)), atol=1e-5)
    assert plenty.networks.holds("backbone")
    assert mx.array_equal(plenty.decode(z, tile=512), sd.decode(z, tile=512))
    assert plenty.networks.holds("backbone")


@pytest.mark.usefixtures("scarce")
def test_many_batches_load_the_encoders_once(tmp_path):
    sd = StableDiffusion("emoji")
    loads = []

    def counting(*arguments):
        loads.append(arguments)
        return family.load_encoder(*arguments)

    family = sd.family
    sd.networks.family = replace(family, load_encoder=counting)
    prompts = tuple(f"a cat {i}" for i in range(5))
    request = sd.resolve(Request(prompts, seed=0, steps=1, guidance_scale=1, height=32, width=32))
    jobs = [Job(i, one, tmp_path / f"{i}.png", "test", str(i)) for i, one in enumerate(request.singles())]
    events = run(Models(lambda _: sd), [Batch(i, (job,)) for i, job in enumerate(jobs)], Store(tmp_path))
    assert sum(isinstance(event, Written) for event in events) == 5
    assert len(loads) == 1


@pytest.mark.usefixtures("scarce")
def test_prompts_of_a_window_do_not_push_out_each_other(monkeypatch):
    sd = StableDiffusion("emoji")
    texts = []

    def requests(letters: str) -> list[Request]:
        return [sd.resolve(Request(f"a {letter}", seed=0, guidance_scale=1, height=32, width=32)) for letter in letters]

    encoder = sd.networks.encoder
    sd.networks._held["encoder"].network = lambda branches, **size: texts.append(branches) or encoder(branches, **size)
    monkeypatch.setattr(memory, "keeps_encoders", lambda *_: True)
    sd.encode_ahead(requests("abcdefgh"))
    sd.encode_ahead(requests("abcd1234"))
    assert len(texts) == 12
    sd.encode_ahead(requests("abcd1234"))
    assert len(texts) == 12


class Recording:
    """As much of the pipeline as `encoded_ahead` asks for."""

    def __init__(self, *, keeps_encoders: bool) -> None:
        self.keeps_encoders = keeps_encoders
        self.log: list[object] = []

    def encode_ahead(self, requests):
        self.log.append(list(requests))


def failing():
    yield "a"
    raise InputError("A bad line.", "Mend it.")


def test_prompts_are_encoded_before_the_first_of_them_is_passed_on():
    sd = Recording(keeps_encoders=False)
    for item in encoded_ahead(sd, [*range(9), None, 9], lambda item: None if item == 1 else -item):
        sd.log.append(item)
    assert sd.log == [[0, -2, -3, -4, -5, -6, -7], *range(8), [-8], 8, None, [-9], 9]
    items = encoded_ahead(sd, failing(), lambda item: item)
    assert next(items) == "a"
    assert sd.log[-1] == ["a"]
    with pytest.raises(InputError):
        next(items)


def test_nothing_is_done_ahead_where_encoders_stay():
    sd = Recording(keeps_encoders=True)
    items = encoded_ahead(sd, failing(), lambda item: item)
    assert next(items) == "a"
    assert sd.log == []


@pytest.mark.parametrize(("text", "size"), [("8", 8e9), ("0.5", 5e8), ("999999", None), ("", None)])
def test_the_memory_can_be_lowered(monkeypatch, text, size):
    monkeypatch.delenv("MLXDIFF_MEMORY", raising=False)
    whole = backend.memory_size()
    monkeypatch.setenv("MLXDIFF_MEMORY", text)
    assert backend.memory_size() == (whole if size is None else min(size, whole))


@pytest.mark.parametrize(
    ("rounded", "own_kernel", "gigabytes", "tile"),
    [(False, False, 85, 512), (False, False, 110, None), (True, False, 85, None), (False, True, 85, None)],
)
def test_what_is_decoded_whole_in_fp32_on_an_nvidia_gpu(monkeypatch, rounded, own_kernel, gigabytes, tile):
    monkeypatch.setattr(backend, "is_gpu", lambda: True)
    monkeypatch.setattr(backend, "backend_name", lambda: "CUDA")
    monkeypatch.setattr(backend, "tf32", lambda: rounded)
    monkeypatch.setattr(backend, "convolves_in_fp32", lambda: own_kernel)
    monkeypatch.setattr(backend, "memory_size", lambda: int(gigabytes * 1e9))
    config = VAEConfig(block_out_channels=(128, 256, 512, 512))
    assert memory.tile_for(config, (1, 128, 128, 4), 4) == tile
    assert memory.tile_for(config, (1, 128, 128, 4), 2) is None


@pytest.mark.parametrize(("recorded", "forgotten"), [(10**9, 1), (10**6, 0), (0, 0)])
def test_recorded_calls_go_before_decoding_where_memory_is_scarce(monkeypatch, recorded, forgotten):
    sd = StableDiffusion("emoji").load()
    calls = []
    monkeypatch.setattr(UNetBackbone, "recorded_nbytes", property(lambda _: recorded))
    monkeypatch.setattr(UNetBackbone, "forget_recordings", lambda _: calls.append(1))
    monkeypatch.setattr(backend, "memory_size", lambda: 10**9)
    sd.networks.make_room(10**8)
    assert len(calls) == forgotten
    assert sd.networks.holds("backbone")


@pytest.mark.parametrize("text", ["8GB", "0", "-1", "nan", "1e3", "9" * 50])
def test_a_memory_that_is_no_number_is_refused(monkeypatch, text):
    monkeypatch.setenv("MLXDIFF_MEMORY", text)
    with pytest.raises(RequestError, match="MLXDIFF_MEMORY"):
        backend.memory_size()


@pytest.mark.parametrize(("gigabytes", "tile"), [(24, 512), (100, None)])
def test_what_is_decoded_whole_on_a_cpu(monkeypatch, gigabytes, tile):
    monkeypatch.setattr(backend, "is_gpu", lambda: False)
    monkeypatch.setattr(backend, "memory_size", lambda: gigabytes * 10**9)
    config = VAEConfig(block_out_channels=(128, 256, 512, 512))
    assert memory.tile_for(config, (1, 128, 128, 4), 4) == tile
    assert memory.tile_for(config, (1, 32, 32, 4), 4) is None


@pytest.mark.parametrize(("cells", "gigabytes"), [(2048, 8), (64, 0.001)])
def test_pictures_that_do_not_fit_even_in_strips_are_refused(monkeypatch, cells, gigabytes):
    sd = StableDiffusion("emoji")
    monkeypatch.setenv("MLXDIFF_MEMORY", str(gigabytes))
    latents = mx.zeros((1, cells, cells, sd.checkpoint.vae.latent_channels))
    side = cells * sd.checkpoint.scale_factor
    with pytest.raises(InputError, match=rf"Decoding {side}x{side} pixels takes about [\d.]+ GB"):
        sd.decode(latents)


def test_a_batch_that_does_not_fit_is_refused_before_it_is_drawn(monkeypatch):
    sd = StableDiffusion("emoji")
    monkeypatch.setenv("MLXDIFF_MEMORY", "0.5")
    with pytest.raises(RequestError, match=r"Denoising this takes about .* GB at once"):
        next(sd.generate_latents("a cat", n_images=10_000, steps=2))


def test_all_pictures_of_a_decode_count(monkeypatch):
    sd = StableDiffusion("emoji")
    monkeypatch.setenv("MLXDIFF_MEMORY", "0.5")
    with pytest.raises(InputError, match="of 5000 pictures"):
        sd.decode(mx.zeros((5000, 32, 32, sd.checkpoint.vae.latent_channels)))


def test_what_cannot_be_decoded_is_not_begun(monkeypatch):
    monkeypatch.setenv("MLXDIFF_MEMORY", "0.5")
    with pytest.raises(MlxdiffError, match="pixels"):
        StableDiffusion("emoji").resolve(Request("a cat", height=2048, width=2048))


@pytest.mark.skipif(sys.platform != "linux", reason="macOS has no limit of addresses")
@pytest.mark.parametrize("kilobytes", [700_000, 900_000, 1_000_000, 1_500_000])
def test_a_limit_of_addresses_is_kept_or_said(tmp_path, kilobytes):
    limit = kilobytes * 1024
    command = [sys.executable, "-m", "mlxdiff", "generate", "a cat", "--steps", "2", "--n-images", "4", "-o", "out"]
    done = subprocess.run(
        command,
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(Path(memory.__file__).parents[1])},  # the code under test
        capture_output=True,
        text=True,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_AS, (limit, limit)),
    )
    said = {0: "", 2: "GB are there", 3: "ran out"}  # before the first picture, or at one
    assert done.returncode in said, (done.returncode, done.stderr)  # and not killed by a signal
    assert said[done.returncode] in done.stderr
