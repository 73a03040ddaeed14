"""Recorded calls give what the function gives; the rules of recording also without a GPU, on a recorder in Python."""

from __future__ import annotations

import json
import os
import re
from importlib import import_module
from types import SimpleNamespace

import mlx.core as mx
import numpy as np
import pytest

from mlxdiff.kernels import graphs

on_gpu = pytest.mark.skipif(graphs.state() != "on", reason=f"recorded calls are {graphs.state()}")


class Recorder:
    """Stands for the compiled module: keeps the function's own outputs, computed from the inputs it is given."""

    def __init__(self):
        self.thread, self.made, self.fails, self.moved = 0, 0, False, False
        self.rooms = []

    def stream(self):
        return self.thread

    def recording(self, inputs):
        if self.fails:
            raise RuntimeError("not here")
        self.made += 1

        def record(outputs, most):
            assert len(outputs) == 1
            self.rooms.append(most)
            if most < 100:
                raise RuntimeError("no room")

        return SimpleNamespace(
            inputs=inputs,
            nbytes=100,
            rehearse=lambda _: None,
            record=record,
            takes=lambda given: not self.moved and [a.shape for a in given] == [a.shape for a in inputs],
            replay=lambda given: [sum(given)],
        )


@pytest.fixture
def recorder(monkeypatch):
    module = Recorder()
    monkeypatch.setattr(graphs, "_loaded", lambda: (module, "on"))
    return module


@pytest.fixture
def summing():
    """A function of arrays in lists that counts how often it is called itself."""
    calls = []

    def function(x, others, factor=1):
        calls.append(factor)
        return factor * (x + sum(others))

    return graphs.Replayed(function, 1000), calls


def test_the_second_call_is_recorded_and_the_third_replayed(recorder, summing):
    function, calls = summing
    for i in range(5):
        found = function(mx.ones(3), [mx.full((3,), i), mx.zeros(3)])
        assert found.tolist() == [i + 1] * 3
    assert (recorder.made, len(calls)) == (1, 1 + 2)  # itself, rehearsed, recorded


def test_other_shapes_types_constants_and_threads_are_recorded_by_themselves(recorder, summing):
    function, _ = summing
    made = []
    for x, others, factor in (
        (mx.ones(3), [mx.ones(3)], 1),
        (mx.ones(4), [mx.ones(4)], 1),
        (mx.ones(3), [mx.ones(3), mx.ones(3)], 1),
        (mx.ones(3, dtype=mx.float16), [mx.ones(3)], 1),
        (mx.ones(3), [mx.ones(3)], 2),
    ):
        function(x, others, factor)
        function(x, others, factor)
        made.append(recorder.made)
    assert made == [1, 2, 3, 4, 5]
    recorder.thread = 1
    function(mx.ones(3), [mx.ones(3)], 2)
    function(mx.ones(3), [mx.ones(3)], 2)
    assert recorder.made == 6
    assert len(function._recordings) == graphs.MOST


def test_what_cannot_be_recorded_is_computed_and_not_tried_again(recorder, summing):
    function, calls = summing
    recorder.fails = True
    for _ in range(4):
        assert function(mx.ones(2), [mx.ones(2)]).tolist() == [2, 2]
    assert (len(calls), function.reasons) == (4, ["not here"])


def test_a_recording_whose_buffers_moved_is_made_anew(recorder, summing):
    function, _ = summing
    function(mx.ones(2), [mx.ones(2)])
    function(mx.ones(2), [mx.ones(2)])
    recorder.moved = True
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(recorder, "moved", True)
        function(mx.ones(2), [mx.ones(2)])
    assert recorder.made == 2


@pytest.mark.usefixtures("recorder")
def test_arguments_that_are_nested_otherwise_or_hold_other_constants_are_told_apart():
    calls = []

    def function(_, parts):
        calls.append(parts)
        return mx.zeros(1)

    replayed, a = graphs.Replayed(function, 0), mx.ones(3)
    others = [[[a], None], [None, [a]], [a, [], 1], [a, [], 1.0], [[a, []], True]]
    for n, parts in enumerate(others, 1):
        replayed(a, parts)
        assert len(calls) == n
    with pytest.raises(TypeError, match="this is a set"):
        replayed(a, {1, 2})


@pytest.mark.parametrize("error", [ValueError("Negative dimensions"), MemoryError(), RuntimeError("cuStream failed")])
def test_whatever_fails_while_a_call_is_recorded_it_is_computed(recorder, summing, error):
    function, _ = summing

    def fail(_):
        raise error

    recorder.recording = fail
    for _ in range(3):
        assert function(mx.ones(2), [mx.ones(2)]).tolist() == [2, 2]
    assert function.reasons == [str(error)]


def test_one_that_moved_is_let_go_before_another_is_made(recorder, summing):
    function, _ = summing
    for _ in range(2):
        function(mx.ones(2), [mx.ones(2)])
    make, held = recorder.recording, []

    def recording(inputs):
        held.append(graphs.held(function))
        return make(inputs)

    (recorded,) = function._recordings.values()
    recorded.recording.takes = lambda _: False
    recorder.recording = recording
    assert function(mx.ones(2), [mx.ones(2)]).tolist() == [2, 2]
    assert held == [0]


def test_what_recordings_hold_is_known_and_can_be_let_go(recorder, summing):
    function, _ = summing
    assert graphs.held(function) == graphs.held(len) == 0
    for n in (2, 3):
        for _ in range(2):
            function(mx.ones(n), [mx.ones(n)])
    assert graphs.held(function) == 200
    graphs.forget(function)
    graphs.forget(len)
    assert graphs.held(function) == 0
    function(mx.ones(2), [mx.ones(2)])
    assert (graphs.held(function), recorder.made) == (100, 3)


def test_a_recording_takes_the_place_of_older_ones_where_there_is_no_room_and_those_are_not_made_again(recorder):
    function = graphs.Replayed(lambda x: 2 * x, 250)
    for n in (1, 2, 3, 1, 2, 3):
        for _ in range(2):
            assert function(mx.ones(n)).tolist() in ([2] * n, [1] * n)  # the recorder's replay adds up its inputs
    assert graphs.held(function) == 200
    assert recorder.rooms == [250, 150, 50, 150]  # the first was given up for the third
    assert [key[-2] for key in function._recordings] == [(2,), (3,)]


def test_a_call_that_cannot_be_recorded_for_another_reason_costs_no_recording(recorder):
    function = graphs.Replayed(lambda x: 2 * x, 250)
    for n in (1, 2):
        recorder.fails = n == 2
        for _ in range(2):
            function(mx.ones(n))
    assert (graphs.held(function), function.reasons) == (100, ["not here"])


def test_one_that_needs_more_than_all_there_is_is_not_recorded(recorder):
    function = graphs.Replayed(lambda x: 2 * x, 99)
    for _ in range(3):
        assert function(mx.ones(2)).tolist() == [2, 2]
    assert (graphs.held(function), recorder.rooms, function.reasons) == (0, [99], ["no room"])


@pytest.mark.parametrize(
    ("built", "graphs_of_mlx", "why"),
    [
        (None, "0", "this copy of mlxdiff was not compiled"),
        ("[]", "0", "this copy of mlxdiff was not compiled"),
        ('{"error": "no g++"}', "0", "no g\\+\\+"),
        ('{"mlx": "0.1"}', "0", "compiled for MLX 0.1, and this is"),
        ('{"mlx": "0.1"}', "1", "MLX_USE_CUDA_GRAPHS"),
    ],
)
def test_it_is_off_with_a_reason(tmp_path, monkeypatch, built, graphs_of_mlx, why):
    monkeypatch.setattr(mx.cuda, "is_available", lambda: True)
    monkeypatch.setenv("MLX_USE_CUDA_GRAPHS", graphs_of_mlx)
    monkeypatch.setattr(graphs, "__file__", str(tmp_path / "graphs.py"))
    if built is not None:
        name = graphs._MODULE + graphs.sysconfig.get_config_var("EXT_SUFFIX")
        (tmp_path / name).with_suffix(".json").write_text(built)
    module, state = graphs._loaded.__wrapped__()
    assert module is None
    assert re.search(why, state)


def test_off_by_a_variable(monkeypatch):
    monkeypatch.setenv(graphs.VARIABLE, "off")
    assert graphs._loaded.__wrapped__() == (None, f"off, as {graphs.VARIABLE} asks")


def network(x, weights):
    """A few products, normalizations, views and a convolution, with skip connections."""
    y = x
    for weight in weights:
        y = mx.maximum(y @ weight, 0) + y
        y = mx.fast.layer_norm(y, None, None, 1e-5)
    grid = mx.concatenate([y, x], axis=-1).reshape(2, 16, 16, -1)
    kernel = mx.ones((8, 3, 3, grid.shape[-1]), dtype=x.dtype) / 64
    q = y.reshape(2, 256, 2, 64).transpose(0, 2, 1, 3)
    attended = mx.fast.scaled_dot_product_attention(q, q, q, scale=0.125)
    return [mx.conv2d(grid, kernel, padding=1), attended.transpose(0, 2, 1, 3).reshape(2, 256, 128)]


def inputs(seed: int):
    rng = np.random.default_rng(seed)
    x = mx.array(rng.standard_normal((2, 256, 128)).astype(np.float16))
    return x, [mx.array((rng.standard_normal((128, 128)) / 11).astype(np.float16)) for _ in range(3)]


@on_gpu
def test_a_replay_has_the_functions_own_bytes_and_touches_nothing_else():
    expected = [network(*inputs(seed)) for seed in range(4)]
    mx.eval(expected)
    function = graphs.compiled(network)
    function(*inputs(0))
    function(*inputs(1))
    assert function.reasons == []
    bystanders = [mx.full((n,), n) for n in (2**k for k in range(4, 20)) for _ in range(3)]
    mx.eval(bystanders)
    together = [function(*inputs(seed)) for seed in range(4)]  # evaluated in any order, all at once
    mx.eval(together)
    for found, wanted in zip(together, expected, strict=True):
        for a, b in zip(found, wanted, strict=True):
            assert np.array_equal(np.array(a), np.array(b))
    assert all(bool((a == a.size).all()) for a in bystanders)


@on_gpu
def test_inputs_that_stay_are_kept_and_those_that_change_are_seen():
    function = graphs.compiled(lambda x, ys: x * 2 + ys[0])
    x, y = mx.arange(1000.0), mx.ones(1000)
    for i in range(5):
        assert np.array_equal(np.array(function(x, [y])), np.arange(1000) * 2 + 1)
        assert np.array_equal(np.array(function(x + i, [y * i])), (np.arange(1000) + i) * 2 + i)


@on_gpu
def test_reading_a_weight_on_the_cpu_moves_it_and_the_call_is_recorded_again():
    weight = mx.random.normal((300, 300))
    function = graphs.compiled(lambda x: x @ weight)
    x = mx.random.normal((4, 300))
    expected = np.array(x @ weight)
    for _ in range(3):
        function(x)
    np.array(weight)
    junk = [mx.zeros((300, 300)) for _ in range(20)]
    mx.eval(junk)
    for _ in range(3):
        np.testing.assert_allclose(np.array(function(x)), expected, rtol=1e-4, atol=1e-4)


@on_gpu
def test_memory_comes_back():
    mx.clear_cache()
    before = mx.get_active_memory()
    function = graphs.compiled(network)
    for seed in range(3):
        mx.eval(function(*inputs(seed)))
    del function
    mx.synchronize()
    mx.clear_cache()
    assert mx.get_active_memory() - before < 2**20


def test_the_module_itself_without_cuda():
    """Where it was compiled, it loads beside MLX's build for CPUs, and says that it is of no use there."""
    if mx.cuda.is_available():
        pytest.skip("MLX runs on CUDA")
    name = graphs._MODULE + graphs.sysconfig.get_config_var("EXT_SUFFIX")
    about = graphs.Path(graphs.__file__).with_name(name).with_suffix(".json")
    if (
        not about.is_file()
        or json.loads(about.read_text()).get("mlx") != getattr(mx, "__version__", "")
        or os.name != "posix"
    ):
        pytest.skip("it is not compiled for this MLX")
    module = import_module(f"mlxdiff.kernels.{graphs._MODULE}")
    assert not module.available()
    with pytest.raises(RuntimeError, match="does not run on CUDA"):
        module.recording([mx.ones(3)])
