"""The library as its users call it: pictures in and out, settings by name, threads, and errors that are always ours."""

from __future__ import annotations

import asyncio
import inspect
import json
import multiprocessing
import os
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import fields, replace
from pathlib import Path
from typing import get_type_hints

import mlx.core as mx
import numpy as np
import pytest
from patience import WAIT
from PIL import Image
from skimage import data

import mlxdiff
from mlxdiff import MlxdiffError, Model, Request, StableDiffusion
from mlxdiff.errors import BackendError, InputError, MlxdiffWarning, RequestError
from mlxdiff.metadata import read_picture

SMALL = {"height": 32, "width": 32, "steps": 2}


@pytest.fixture(scope="module")
def sd() -> StableDiffusion:
    return StableDiffusion("emoji", dtype="fp32")


# -- pictures out ---------------------------------------------------------------------------------------------------


def test_generate_gives_pil_pictures_that_say_how_they_were_made(sd, tmp_path):
    steps = []
    pictures = sd.generate("a red apple", n_images=2, seed=5, on_step=steps.append, **SMALL)
    assert [picture.size for picture in pictures] == [(32, 32)] * 2
    assert all(isinstance(picture, Image.Image) for picture in pictures)
    assert [step.index for step in steps] == [0, 1]
    assert json.loads(pictures[1].info["mlxdiff"])["seed"] == 6
    for suffix in ("png", "jpg", "webp"):
        pictures[1].save(tmp_path / f"apple.{suffix}")
        request = read_picture(tmp_path / f"apple.{suffix}").request
        assert request is not None
        assert (request.prompt, request.seed, request.steps, request.model) == ("a red apple", 6, 2, "emoji")


def test_generate_is_the_same_loop(sd):
    (picture,) = sd.generate("a red apple", seed=5, **SMALL)
    latents = None
    for latents in sd.generate_latents("a red apple", seed=5, **SMALL):
        mx.eval(latents)
    expected = (np.array(sd.decode(latents))[0] * 255).round().astype(np.uint8)
    assert np.array_equal(np.asarray(picture), expected)


# -- pictures in ----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def photo(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("photo") / "cat.png"
    Image.fromarray(data.chelsea()).resize((32, 32)).save(path)
    return path


def test_a_picture_comes_as_a_path_a_pil_image_or_an_array(sd, photo):
    opened = Image.open(photo)
    array = np.asarray(opened)
    forms = [photo, str(photo), opened, array, array.astype(np.float32) / 255, mx.array(array)]
    found = [np.asarray(sd.generate("a cat", image=form, strength=0.5, seed=1, **SMALL)[0]) for form in forms]
    assert all(np.array_equal(found[0], other) for other in found[1:])
    assert found[0].std() > 1


def test_a_model_comes_as_a_path():
    folder = Path(mlxdiff.__file__).parent / "assets" / "emoji"
    assert StableDiffusion(folder).model.reference == str(folder)


def test_the_content_of_a_picture_is_recorded(sd, photo):
    import hashlib

    (picture,) = sd.generate("a cat", image=photo, strength=0.5, seed=1, **SMALL)
    recorded = json.loads(picture.info["mlxdiff"])["hashes"]
    assert recorded == {str(photo): hashlib.sha256(photo.read_bytes()).hexdigest()}
    pixels = sd.resolve(Request("a cat", image=data.chelsea()[:32, :32], **SMALL))
    assert pixels.image.sha256 in json.loads(pixels.to_json())["image"]


def test_a_picture_s_own_size_is_kept_rounded_down(sd):
    with pytest.warns(MlxdiffWarning, match="50x41 pixels; 48x40 are drawn"):
        resolved = sd.resolve(Request("a cat", image=data.chelsea()[:41, :50], steps=2))
    assert (resolved.height, resolved.width) == (40, 48)


def test_a_strength_that_leaves_no_step_raises_the_steps(sd, photo):
    with pytest.warns(MlxdiffWarning, match="leaves none: 10 are taken"):
        resolved = sd.resolve(Request("a cat", image=photo, steps=4, strength=0.1))
    assert (resolved.steps, resolved.n_steps) == (10, 1)


@pytest.mark.parametrize(("compat", "run"), [("a1111", 1), ("comfyui", 4)])
def test_programs_that_run_a_step_at_any_strength_keep_their_steps(sd, photo, compat, run):
    resolved = sd.resolve(Request("a cat", image=photo, steps=4, strength=0.1, compat=compat, sampler="euler"))
    assert (resolved.steps, resolved.n_steps) == (4, run)


@pytest.mark.parametrize("settings", [{"steps": 4, "strength": 5e-324}, {"sigmas": (9.0, 3.0, 0.0), "strength": 0.1}])
def test_a_strength_that_leaves_no_step_of_any_number_is_refused(sd, photo, settings):
    with pytest.raises(RequestError, match="leaves none"):
        sd.resolve(Request("a cat", image=photo, **settings))


@pytest.mark.parametrize("sampler", ["dpm_adaptive", "dpmpp_sde", "dpmpp_2m_sde_heun", "dpmpp_3m_sde"])
def test_a_sampler_between_two_levels_is_refused_with_one(sd, sampler):
    for settings in ({"steps": 1}, {"sigmas": (9.0, 0.0)}, {"sigmas": (9.0, 8.99999, 0.0)}):
        with pytest.raises(RequestError, match="needs two noise levels above 0"):
            sd.resolve(Request("a cat", sampler=sampler, seed=1, height=16, width=16, **settings))
    sd.resolve(Request("a cat", sampler=sampler, steps=2, seed=1))
    told = {"sampler": "dpm_adaptive", "steps": 4, "hires": 2, "hires_steps": 1, "hires_strength": 1.0}
    with pytest.raises(RequestError, match="needs two noise levels above 0"):
        sd.resolve(Request("a cat", seed=1, **told))


# -- what is recorded -----------------------------------------------------------------------------------------------


def test_a_resolved_request_says_the_truth_about_the_model_that_renders_it(sd):
    wanted = Request("a cat", model="stabilityai/sdxl-turbo", revision="main", dtype="fp16", quantize=8)
    resolved = sd.resolve(wanted)
    assert resolved.wanted_model == sd.model == Model("emoji", dtype="fp32")
    assert json.loads(resolved.to_json())["model"] == "emoji"
    assert all(getattr(resolved, item.name) is not None for item in fields(Request) if item.name in REQUIRED)


REQUIRED = (
    *("steps", "guidance_scale", "seed", "height", "width", "sampler", "model", "dtype", "rng"),
    *("guidance_start", "guidance_end", "guidance_rescale", "cache_interval", "token_merging"),
)


def test_resolving_is_done_once_and_quickly(sd, monkeypatch):
    resolved = sd.resolve(Request("a cat", seed=1, schedule="beta", **SMALL))
    monkeypatch.setattr(StableDiffusion, "resolve", lambda *_: pytest.fail("resolved again"))
    assert len(list(sd.denoise(resolved))) == 2
    assert resolved.single(0).noise_levels is resolved.noise_levels


# -- settings as keyword arguments ----------------------------------------------------------------------------------


def test_the_signature_for_editors_has_the_declared_settings():
    from mlxdiff.request.keywords import Settings

    names = set(Settings.__annotations__)
    declared = {item["name"] for item in mlxdiff.settings() if item["scope"] == "picture"}
    assert names == declared - {"prompt"}


def test_settings_and_samplers_are_data():
    settings = {item["name"]: item for item in mlxdiff.settings()}
    assert (settings["steps"]["low"], settings["steps"]["high"]) == (1, 1000)
    assert settings["sampler"]["choices"] == [item["name"] for item in mlxdiff.samplers()]
    assert json.dumps([mlxdiff.settings(), mlxdiff.samplers()])


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda sd: sd.generate(None), "prompt is NoneType"),
        (lambda sd: sd.generate(5), "prompt is int"),
        (lambda sd: sd.generate("a", stepz=3), "no field 'stepz'"),
        (lambda sd: sd.generate_latents("a", steps=0).__next__(), "steps is 0"),
        (lambda sd: sd.generate("a", image=3), "image is int"),
        (lambda sd: sd.generate("a", image=np.zeros((3, 3))), r"shape \(3, 3\)"),
        (lambda sd: sd.generate("a", image=np.full((8, 8, 3), 7.0)), "not all in"),
        (lambda sd: sd.generate("a", image="nosuch.png"), "no picture nosuch.png"),
        (lambda sd: sd.decode("latents"), "latents are str"),
        (lambda sd: sd.decode(None), "latents are NoneType"),
        (lambda sd: sd.decode(np.zeros((1, 4, 4, 3))), "shape"),
        (lambda sd: sd.encode(np.zeros((1, 30, 30, 3), np.float32)), "30x30 pixels"),
        (lambda sd: sd.encode([[1, 2], [3]]), "images are list"),
        (lambda sd: sd.encode_prompt(None), "prompt is NoneType"),
        (lambda sd: next(sd.generate_latents("a", latents=np.zeros((1, 2, 2, 4)), **SMALL)), "noise given has shape"),
        (lambda sd: sd.resolve(Request("a", height=16384, width=16384)), "needs about .* GB"),
        (lambda _: StableDiffusion(5), "model is int"),
        (lambda _: StableDiffusion("emoji", dtype=3), "no dtype 3"),
        (lambda _: StableDiffusion("emoji", quantize=3), "quantize is 3"),
        (lambda _: StableDiffusion("emoji", vae=object()), "vae is object"),
    ],
)
def test_every_error_is_two_sentences_of_ours(sd, call, words):
    with pytest.raises(MlxdiffError, match=words) as caught:
        call(sd)
    assert caught.value.remedy


def test_latents_may_be_numpy_s(sd):
    latents = np.random.default_rng(0).normal(size=(1, 8, 8, 4)).astype(np.float32)
    assert mx.array_equal(sd.decode(latents), sd.decode(mx.array(latents)))


def test_a_picture_that_was_in_memory_has_to_be_given_again(sd, tmp_path):
    given = Image.fromarray(data.astronaut()[:32, :32])
    sd.generate("a cat", image=given, strength=0.5, seed=1, **SMALL)[0].save(tmp_path / "a.png")
    request = read_picture(tmp_path / "a.png").request
    with pytest.raises(InputError, match=r"was in memory, not in a file\. Give it again"):
        sd.resolve(request)
    assert sd.resolve(replace(request, image=given)).hashes == request.hashes


def test_loading_leaves_the_callers_random_numbers_alone():
    mx.random.seed(5)
    expected = mx.random.normal((4,))
    mx.random.seed(5)
    StableDiffusion("emoji").load()
    assert mx.array_equal(mx.random.normal((4,)), expected)


MANY_MODELS = """
import gc, pathlib
import mlxdiff

def resident():
    gc.collect()
    return int(pathlib.Path("/proc/self/statm").read_text().split()[1]) * 4096 / 1e6

for count in range(30):
    mlxdiff.StableDiffusion("emoji").load()
    if count == 9:
        before = resident()
print(resident() - before)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_a_dropped_model_leaves_nothing_behind():
    done = subprocess.run([sys.executable, "-c", MANY_MODELS], capture_output=True, text=True, check=True)
    assert float(done.stdout) < 4  # MB; 13 where the draws of 20 models are kept


# -- threads and processes ------------------------------------------------------------------------------------------


def rendered(sd, seed: int) -> bytes:
    return sd.generate("a cat", seed=seed, **SMALL)[0].tobytes()


def test_any_thread_may_generate():
    sd = StableDiffusion("emoji").load()
    expected = [rendered(sd, seed) for seed in range(6)]
    fresh = StableDiffusion("emoji")
    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(lambda seed: rendered(fresh, seed), range(6))) == expected
    assert asyncio.run(asyncio.to_thread(rendered, sd, 3)) == expected[3]
    assert rendered(fresh, 2) == expected[2]


def test_a_loop_belongs_to_the_thread_that_began_it(sd):
    loop = sd.denoise(Request("a cat", seed=1, **SMALL))
    next(loop)
    caught = []

    def go_on() -> None:
        try:
            next(loop)
        except MlxdiffError as error:
            caught.append(error)

    thread = threading.Thread(target=go_on)
    thread.start()
    thread.join()
    assert isinstance(caught[0], BackendError)
    assert "another thread" in caught[0].problem


SLOW_TO_END = """
import atexit, ctypes, pathlib, threading
from mlxdiff import threads
from mlxdiff.threads import Turn

threads._ENDING_S = 60

libc = ctypes.CDLL(None)
key = ctypes.c_uint()
libc.pthread_key_create(ctypes.byref(key), libc.usleep)  # what C++ frees as a thread ends, of 2 s here

turn, worker = Turn(lambda: None), None
atexit.register(lambda: print(pathlib.Path(f"/proc/self/task/{worker.native_id}").exists()))

def work():
    with turn:
        libc.pthread_setspecific(key, ctypes.c_void_p(2_000_000))

worker = threading.Thread(target=work)
worker.start()
worker.join()
print(pathlib.Path(f"/proc/self/task/{worker.native_id}").exists())
"""


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_the_interpreter_waits_for_threads_to_end():
    """MLX frees Python objects after Python has joined a thread; an interpreter that ended meanwhile would abort."""
    done = subprocess.run([sys.executable, "-c", SLOW_TO_END], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["True", "False"]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_forked_process_is_told_so(sd):
    rendered(sd, 0)
    context = multiprocessing.get_context("fork")
    queue = context.Queue()

    def child() -> None:
        for call in (lambda: rendered(sd, 0), lambda: rendered(StableDiffusion("emoji"), 0)):
            with pytest.raises(MlxdiffError) as error:
                call()
            queue.put(str(error.value))

    process = context.Process(target=child)
    process.start()
    said = [queue.get(timeout=WAIT) for _ in range(2)]
    process.join(WAIT)
    assert all("forked" in text for text in said)


def test_an_empty_path_is_no_picture():
    with pytest.raises(RequestError, match="image is empty"):
        Request("a cat", image=" ")


def test_type_hints_of_the_public_names_can_be_read():
    assert (Path(mlxdiff.__file__).parent / "py.typed").exists()
    assert "reference" in get_type_hints(Model)
    assert issubclass(RequestError, ValueError)
    assert issubclass(InputError, MlxdiffError)


def test_methods_name_their_arguments_as_the_documentation_does():
    for method, names in {
        "decode": ["latents", "tile"],
        "encode": ["images"],
        "denoise": ["request", "latents"],
    }.items():
        assert list(inspect.signature(getattr(StableDiffusion, method)).parameters)[1:] == names
