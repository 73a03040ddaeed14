"""Trajectories: whole in the file, one step at a time out of it."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest
from safetensors import safe_open
from safetensors.numpy import save_file

from mlxdiff.errors import InputError, OutputError
from mlxdiff.latents import load_latents, save_latents
from mlxdiff.request import Request
from mlxdiff.trajectory import open_trajectory, save_trajectory

REQUEST = Request(prompt=("猫", "dog"), prompt_syntax="plain", seed=(3, 9), steps=3, model="emoji", revision="abc")


def steps(*shape: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    left, foreseen = rng.standard_normal((2, *shape)).astype(np.float32)
    return left, foreseen


def test_steps_are_what_they_foresaw_and_the_last_is_the_outcome(tmp_path):
    left, foreseen = steps(3, 2, 4, 6, 4)
    save_trajectory(tmp_path / "a.safetensors", left, foreseen, REQUEST)
    with open_trajectory(tmp_path / "a.safetensors") as found:
        assert found is not None
        assert (found.shape, found.request, found.model) == ((3, 2, 4, 6, 4), REQUEST, "emoji@abc")
        np.testing.assert_array_equal(found.foreseen(0), foreseen[0])
        np.testing.assert_array_equal(found.foreseen(1), foreseen[1])
        np.testing.assert_array_equal(found.foreseen(2), left[2])


def test_every_steps_latents_are_under_their_name(tmp_path):
    left, foreseen = steps(3, 2, 4, 6, 4)
    save_trajectory(tmp_path / "a.safetensors", left, foreseen, REQUEST)
    with safe_open(tmp_path / "a.safetensors", framework="np") as file:
        np.testing.assert_array_equal(file.get_tensor("latents"), left)
        np.testing.assert_array_equal(file.get_tensor("denoised"), foreseen)
    assert load_latents(tmp_path / "a.safetensors").is_trajectory


def test_the_same_run_is_the_same_file(tmp_path):
    for name in ("a", "b"):
        save_trajectory(tmp_path / name, *steps(3, 2, 4, 6, 4), REQUEST)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_a_trajectory_of_latents_alone_is_shown_as_it_is(tmp_path):
    left, _ = steps(3, 2, 4, 6, 4)
    save_latents(tmp_path / "a.safetensors", left, REQUEST)
    with open_trajectory(tmp_path / "a.safetensors") as found:
        assert found is not None
        np.testing.assert_array_equal(found.foreseen(1), left[1])


def test_other_files_are_no_trajectory(tmp_path):
    save_latents(tmp_path / "latents", steps(2, 4, 6, 4)[0], REQUEST)
    (tmp_path / "text").write_text("hello")
    save_file({"latents": np.zeros((2, 1, 1, 1, 4), np.int32)}, tmp_path / "whole")
    for name in ("latents", "text", "whole", "missing", "."):
        with open_trajectory(tmp_path / name) as found:
            assert found is None


def test_parts_that_do_not_fit_together(tmp_path):
    left, foreseen = steps(3, 1, 4, 6, 4)
    save_file({"latents": left, "denoised": foreseen[:2]}, tmp_path / "a")
    save_file({"latents": np.zeros((0, 1, 4, 6, 4), np.float32)}, tmp_path / "b")
    save_file({"latents": left}, tmp_path / "c", {"mlxdiff": "{"})
    for name, words in (("a", "fit together"), ("b", "fit together"), ("c", "The request in")):
        with pytest.raises(InputError, match=words), open_trajectory(tmp_path / name):
            pass
    with pytest.raises(ValueError, match="not of shapes"):
        save_trajectory(tmp_path / "d", left, foreseen[:2], REQUEST)


def test_nothing_is_overwritten_without_force(tmp_path):
    left, foreseen = steps(2, 1, 2, 2, 4)
    save_trajectory(tmp_path / "a", left, foreseen, REQUEST)
    with pytest.raises(OutputError, match="exists already"):
        save_trajectory(tmp_path / "a", left, foreseen, REQUEST)


def test_a_step_is_read_without_the_others(tmp_path):
    left, foreseen = steps(50, 1, 64, 64, 4)
    save_trajectory(tmp_path / "a", left, foreseen, REQUEST)
    with open_trajectory(tmp_path / "a") as found:
        assert found is not None
        tracemalloc.start()
        for step in range(50):
            found.foreseen(step)
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
    assert peak < 4 * left[0].nbytes
