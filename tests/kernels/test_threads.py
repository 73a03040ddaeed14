"""The extension's threads: as many as the load leaves cores, no bit of a result depends on them, and lack of memory."""

from __future__ import annotations

import math
import os
import threading
import time
from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest
from arrays import normal
from patience import WAIT

from mlxdiff import StableDiffusion, backend
from mlxdiff.computer import blas, cores
from mlxdiff.errors import BackendError
from mlxdiff.kernels import native

extension = native.serving()
if extension is None:
    pytest.skip(f"the extension is {native.state()}", allow_module_level=True)

TYPES = [mx.float32, mx.bfloat16] if extension.has_bf16() else [mx.float32]

QUANTIZED = mx.quantize(mx.array(normal(192, 640)), 64, 4)
mx.eval(QUANTIZED)


@pytest.fixture(autouse=True)
def as_many_threads_as_before():
    """As many as there were, afterwards."""
    yield
    told = blas.wished_threads()
    extension.watch_load("/proc/stat")
    extension.set_threads(cores.allowed() if told is None else told, follow_load=told is None)


def results(dtype):
    def draw(*shape):
        return mx.array(normal(*shape, seed=len(shape) + shape[0])).astype(dtype)

    channels = draw(64)
    arrays = [
        extension.linear(draw(1500, 320), draw(200, 320), None),
        extension.linear(draw(70, 1280), draw(200, 1280), None),
        extension.convolve(draw(1, 21, 19, 64), draw(40, 3, 3, 64), None, 1, 1),
        extension.convolve(draw(1, 8, 8, 640), draw(40, 3, 3, 640), None, 2, 1),
        extension.convolve(draw(1, 4, 4, 640), draw(40, 3, 3, 640), None, 1, 1),
        extension.quantized_linear(draw(70, 640).astype(mx.float32), *QUANTIZED, 64, 4),
        extension.linear(draw(70, 1280), extension.pack(draw(192, 1280)), None),
        extension.convolve(draw(1, 21, 19, 64), extension.pack(draw(96, 3, 3, 64)), None, 1, 1),
        extension.convolve(draw(1, 4, 4, 640), extension.pack(draw(96, 3, 3, 640)), None, 1, 1),
        extension.linear_geglu(draw(600, 320), extension.pack(draw(256, 320)), None),
        extension.attention(draw(2, 300, 80), draw(2, 290, 80), draw(2, 290, 80), 2),
        extension.group_norm(draw(2, 300, 64), channels, channels, 8, 1e-5),
        extension.layer_norm(draw(300, 64), channels, channels, 1e-5),
        draw(300, 500).astype(mx.float32) @ draw(500, 129).astype(mx.float32),
    ]
    return [np.array(a.astype(mx.float32)).tobytes() for a in arrays]


@pytest.mark.parametrize("dtype", TYPES)
def test_no_bit_depends_on_the_number_of_threads(dtype):
    found = []
    for number in (1, 2, 3, 16):
        extension.set_threads(number)
        assert extension.threads() == number
        found.append(results(dtype))
    assert found[1:] == found[:1] * 3


def test_no_bit_depends_on_a_load_that_changes_meanwhile(tmp_path):
    """Two Python threads compute while the machine seems busy, free and busy again."""
    extension.set_threads(1)
    wanted = results(mx.float32)
    busy, free = tmp_path / "busy", tmp_path / "free"
    busy.write_text("cpu  1 0 0 1 0 0\n")  # idle time that stands still
    free.write_text("cpu  0 0 0 0 0 0\n")  # which tells nothing
    extension.set_threads(5, follow_load=True)
    found, enough = [], threading.Event()
    # What this process itself uses counts as free: one core or two of a small machine, all five of a large one.
    fewer = set(range(1, 5)) if (os.cpu_count() or 1) < 5 else set(range(1, 6))

    def compute():
        while not enough.is_set():
            found.append(results(mx.float32))

    workers = [threading.Thread(target=compute) for _ in range(2)]
    for worker in workers:
        worker.start()
    try:
        for path, expected in ((busy, fewer), (free, {5}), (busy, fewer), (free, {5})):
            extension.watch_load(str(path))
            before, end = len(found), time.monotonic() + WAIT
            while extension.active_threads() not in expected or len(found) < before + 4:
                assert time.monotonic() < end
                time.sleep(0.01)
    finally:
        enough.set()
        for worker in workers:
            worker.join()
    assert found == [wanted] * len(found)


@pytest.mark.parametrize("dtype", ["fp32", "bf16"][: len(TYPES)])
def test_pictures_of_any_number_of_threads_are_byte_equal(dtype):
    sd = StableDiffusion("emoji", dtype=dtype)
    pictures = []
    for number in (1, 2, 5):
        extension.set_threads(number)
        pictures.append(sd.generate("a green frog", seed=1, steps=3, height=128, width=128)[0].tobytes())
    assert pictures[1:] == pictures[:1] * 2


@pytest.mark.parametrize(
    ("allowed", "idle", "own", "expected"),
    [
        (8, 8.0, 0.0, 8),
        (8, 0.0, 8.0, 8),
        (8, 1.0, 4.0, 5),  # three cores are others'
        (2, 1.0, 4.0, 2),  # and this process may use two of the other five
        (8, 0.0, 4.4, 4),
        (8, 0.0, 0.2, 1),
        (8, 9.0, 3.0, 8),  # the kernel counts in steps
    ],
)
def test_the_cores_that_others_leave(allowed, idle, own, expected):
    assert extension.free_cores(8, allowed, idle, own, 1.0) == expected


def test_the_number_of_threads_follows_the_load(tmp_path):
    stat, machine = tmp_path / "stat", os.sysconf("SC_NPROCESSORS_ONLN")
    x, weight = mx.array(normal(64, 64)), mx.array(normal(64, 64, seed=1))

    def compute_until(number, idle_cores):
        """Works while the clock of idle cores runs at that speed, until so many threads take part."""
        start = time.perf_counter()
        while time.perf_counter() - start < WAIT:
            ticks = (time.perf_counter() - began) * os.sysconf("SC_CLK_TCK")
            text = f"cpu  {(machine - idle_cores) * ticks:.0f} 0 0 {idle_cores * ticks:.0f} 0 0\n"
            (tmp_path / "new").write_text(text)
            (tmp_path / "new").replace(stat)
            mx.eval(extension.linear(x, weight, None))
            if time.perf_counter() - start > 0.4 and extension.active_threads() == number:
                return True
        return False

    began = time.perf_counter()
    stat.write_text("cpu  1 0 0 0 0 0\n")
    extension.watch_load(str(stat))
    extension.set_threads(machine, follow_load=True)
    assert compute_until(1, idle_cores=0.0)  # whatever this process computes itself
    began = time.perf_counter() - 1000
    assert compute_until(machine, idle_cores=float(machine))


@pytest.mark.parametrize("text", [None, "", "cpu\n", "cpu  0 0 0 0 0 0 0 0 0 0\ncpu0 0 0 0 0 0\n"])
def test_where_nothing_tells_of_the_load_all_threads_compute(tmp_path, text):
    """A sandbox may have no such file, or one of zeros: that does not mean that others keep all cores busy."""
    if text is not None:
        (tmp_path / "stat").write_text(text)
    extension.watch_load(str(tmp_path / "stat"))
    extension.set_threads(3, follow_load=True)
    for _ in range(3):
        mx.eval(extension.silu(mx.zeros(100_000)))
        time.sleep(0.2)
    assert extension.active_threads() == 3


@pytest.mark.skipif(not Path("/proc/self/schedstat").exists(), reason="this kernel does not say what a thread has done")
def test_all_threads_take_part():
    """One that is ready before its number counts must not sleep on."""
    tasks = Path("/proc/self/task")

    def spent(name):
        return int((tasks / name / "schedstat").read_text().split()[0])

    x, weight = mx.array(normal(2000, 320)), mx.array(normal(640, 320, seed=1))
    extension.set_threads(1)
    others = {task.name for task in tasks.iterdir()}
    extension.set_threads(16)
    time.sleep(0.1)  # all have begun, and sleep
    before = {task.name: spent(task.name) for task in tasks.iterdir() if task.name not in others}
    assert len(before) == 15
    end = time.monotonic() + WAIT
    while any(spent(name) == then for name, then in before.items()):
        assert time.monotonic() < end
        mx.eval(extension.linear(x, weight, None))


@pytest.mark.parametrize(("text", "number"), [("3", 3), ("", None), ("0", None), ("many", None), ("2,4", None)])
def test_threads_that_the_environment_asks_for(monkeypatch, text, number):
    for name in blas._THREADS:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("OPENBLAS_NUM_THREADS", text)
    assert blas.wished_threads() == number


# -- lack of memory ------------------------------------------------------------------------------------------------


@pytest.fixture
def no_scratch():
    extension.limit_scratch(0)
    yield
    extension.limit_scratch(2**62)
    extension.lacked_memory()


@pytest.mark.usefixtures("no_scratch")
@pytest.mark.parametrize("dtype", TYPES)
def test_an_operation_without_memory_gives_nan_and_the_next_one_fails(dtype):
    x = mx.array(normal(40, 40)).astype(dtype)
    lost = np.array(extension.linear(x, x, None).astype(mx.float32))
    assert np.isnan(lost).all()
    with pytest.raises(RuntimeError, match="allocate"):
        mx.eval(extension.silu(x))
    mx.eval(extension.silu(x))  # said once


@pytest.mark.usefixtures("no_scratch")
def test_a_product_of_mlx_without_memory_is_nan():
    x = mx.array(normal(40, 40))
    assert math.isnan((x @ x).sum().item())
    with pytest.raises(BackendError, match="memory ran out"):
        backend.check_memory()
    backend.check_memory()


def test_a_picture_without_memory_ends_in_an_error_and_the_next_one_is_drawn():
    sd = StableDiffusion("emoji")
    settings = {"seed": 1, "steps": 1, "height": 128, "width": 128}
    before = sd.generate("a red apple", **settings)[0]
    extension.limit_scratch(0)
    try:
        with pytest.raises(BackendError, match="memory ran out"):
            sd.generate("a red apple", **settings)
    finally:
        extension.limit_scratch(2**62)
    extension.lacked_memory()
    assert sd.generate("a red apple", **settings)[0].tobytes() == before.tobytes()
