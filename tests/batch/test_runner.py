"""The runner with a model that costs nothing: what is loaded when, and what ends a run."""

from __future__ import annotations

import errno
import os
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import SimpleNamespace

import mlx.core as mx
import numpy as np
import pytest
from patience import WAIT

from mlxdiff import images
from mlxdiff.batch import claims, store
from mlxdiff.batch.events import Failed, Policy, Written
from mlxdiff.batch.jobs import Job, by_model, grouped
from mlxdiff.batch.journal import Journal, Run
from mlxdiff.batch.models import Models
from mlxdiff.batch.render import Rendered
from mlxdiff.batch.runner import run
from mlxdiff.batch.store import Store
from mlxdiff.errors import CheckpointError, OutputError
from mlxdiff.files import output_error
from mlxdiff.request import Model, Request, Resolved


@dataclass
class Fake:
    """As much of StableDiffusion as the runner asks for; writes down what is asked."""

    model: Model
    log: list[str]
    keeps_encoders: bool = True
    fails: bool = False
    asked: list[Resolved] = field(default_factory=list)

    @property
    def name(self) -> str:
        return str(self.model.reference)

    def load(self) -> None:
        self.log.append(f"load {self.name}")
        if self.fails:
            raise CheckpointError(f"{self.name} is damaged.", "Pull it again.")

    def unload(self) -> None:
        self.log.append(f"unload {self.name}")

    def denoise(self, request: Resolved):
        self.asked.append(request)
        for index in range(request.steps):
            latents = mx.full((request.batch_size, 4, 4, 4), float(index))
            yield SimpleNamespace(index=index, latents=latents, denoised=latents)

    def decode(self, latents: mx.array, *, tile: int | None = None) -> mx.array:
        del tile
        return mx.zeros((latents.shape[0], 8, 8, 3))

    def finish(self, request: Request, decoded: mx.array) -> np.ndarray:
        return images.to_uint8(decoded, request.rounding or "nearest")


@dataclass
class World:
    """Models that are fakes, and a folder."""

    folder: Path
    log: list[str] = field(default_factory=list)
    damaged: tuple[str, ...] = ()

    def models(self) -> Models:
        return Models(lambda model: Fake(self.loaded(model), self.log, fails=model.reference in self.damaged))  # type: ignore[arg-type, return-value]

    def loaded(self, model: Model) -> Model:
        """As a checkpoint knows it, whose precision is fp32 unless another one is asked for."""
        return replace(model, dtype="fp32" if model.dtype is None else model.dtype)

    def store(self) -> Store:
        journal = Journal(self.folder)
        journal.begin(Run("r", 0, 1))
        return Store(self.folder, journal)

    def job(self, index: int, model: str = "a") -> Job:
        schedule = SimpleNamespace(sigmas=(1.0, 0.5, 0.0))
        request = Resolved(
            f"p{index}",
            seed=index,
            steps=2,
            height=8,
            width=8,
            model=model,
            prompt_syntax="a1111",
            noise_levels=schedule,  # type: ignore[arg-type]
        )
        return Job(index, request, self.folder / f"{index}.png", "the test", f"id{index}", model=Model(model))


@pytest.fixture
def world(tmp_path) -> World:
    return World(tmp_path)


def kinds(events) -> list[str]:
    return [f"{type(event).__name__} {event.job.index}" for event in events if isinstance(event, Written | Failed)]


def test_each_model_of_a_list_is_loaded_once_and_the_one_before_let_go(world):
    jobs = [world.job(i, "ab"[i % 2]) for i in range(6)]
    events = run(world.models(), by_model(grouped(jobs, 2)), world.store())
    assert sorted(kinds(events)) == [f"Written {i}" for i in range(6)]
    assert world.log == ["load a", "unload a", "load b"]


def test_one_model_in_two_wordings_is_loaded_once(world):
    jobs = [replace(world.job(i), model=Model("a", dtype=dtype)) for i, dtype in enumerate((None, "fp32", None))]
    assert len(kinds(run(world.models(), by_model(grouped(jobs, 2)), world.store()))) == 3
    assert world.log == ["load a"]


def test_a_stream_switches_as_lines_come_and_finishes_one_model_first(world):
    jobs = [world.job(i, model) for i, model in enumerate("aaba")]
    for event in run(world.models(), grouped(jobs, 1), world.store()):
        if isinstance(event, Written):
            world.log.append(f"written {event.job.index}")
    switches = [line for line in world.log if "load" in line]
    assert switches == ["load a", "unload a", "load b", "unload b", "load a"]
    assert world.log.index("written 1") < world.log.index("unload a"), "nothing of a model is left when it goes"


def test_a_finished_run_loads_nothing(world):
    jobs = [world.job(i) for i in range(3)]
    list(run(world.models(), grouped(jobs, 2), world.store()))
    world.log.clear()
    events = list(run(world.models(), grouped(jobs, 2), world.store()))
    assert [event.found for event in events if isinstance(event, Written)] == [True] * 3
    assert world.log == []


def test_a_model_that_cannot_be_loaded_fails_its_own_jobs_alone(world):
    world.damaged = ("b",)
    jobs = [world.job(i, "ab"[i % 2]) for i in range(4)]
    events = run(world.models(), by_model(grouped(jobs, 1)), world.store())
    assert sorted(kinds(events)) == ["Failed 1", "Failed 3", "Written 0", "Written 2"]


def test_a_whole_batch_is_rendered_for_one_picture_that_is_missing_and_only_that_is_written(world):
    jobs = [world.job(i) for i in range(4)]
    list(run(world.models(), grouped(jobs, 4), world.store()))
    before = {path.name: path.stat().st_mtime_ns for path in world.folder.glob("*.png")}
    (world.folder / "2.png").unlink()
    models = world.models()
    events = list(run(models, grouped(jobs, 4), world.store()))
    assert models.open(Model("a")).asked[0].prompts == ("p0", "p1", "p2", "p3")  # type: ignore[attr-defined]
    assert [event.index for event in events if isinstance(event, Rendered)] == [2]
    now = {path.name: path.stat().st_mtime_ns for path in world.folder.glob("*.png")}
    assert {name for name in now if now[name] != before[name]} == {"2.png"}


def test_a_full_disk_ends_the_run(world, monkeypatch):
    def full(path: Path, *_, **__):
        cause = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        raise output_error(path, cause) from cause

    monkeypatch.setattr(store, "atomic_write", full)
    jobs = [world.job(i) for i in range(50)]
    failed = [event for event in run(world.models(), grouped(jobs, 1), world.store()) if isinstance(event, Failed)]
    assert 1 <= len(failed) <= 5
    assert "disk is full" in str(failed[0].error)


def test_other_refusals_do_not(world, monkeypatch):
    def refuse(path: Path, *_, **__):
        raise OutputError(f"{path} cannot be written.", "Look.")

    monkeypatch.setattr(store, "atomic_write", refuse)
    jobs = [world.job(i) for i in range(20)]
    assert len(kinds(run(world.models(), grouped(jobs, 1), world.store()))) == 20
    fast = kinds(run(world.models(), grouped(jobs, 1), world.store(), Policy(fail_fast=True)))
    assert 1 <= len(fast) <= 5


def test_pictures_that_another_process_has_are_waited_for(world):
    """One of a batch is claimed: the others wait for it, and nothing is rendered twice."""
    jobs = [world.job(i) for i in range(4)]
    held = claims.take(world.folder, "id1")
    assert held is not None
    events = []
    for event in run(world.models(), grouped(jobs, 2), world.store()):
        events.append(event)
        if isinstance(event, Written) and event.job.index == 3:
            elsewhere = world.store()
            list(run(world.models(), grouped([jobs[1]], 2), Store(world.folder, elsewhere.journal, shared=False)))
            held.release()
    assert kinds(events) == ["Written 2", "Written 3", "Written 1", "Written 0"]
    assert [event.found for event in events if isinstance(event, Written)] == [False, False, True, False]
    assert not list(world.folder.glob(".mlxdiff*"))


def test_a_lock_file_that_cannot_be_removed_ends_nothing(world, monkeypatch):
    unlink = Path.unlink

    def refuse(path: Path, **more):
        if path.suffix == ".lock":
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        unlink(path, **more)

    monkeypatch.setattr(Path, "unlink", refuse)
    jobs = [world.job(i) for i in range(3)]
    assert kinds(run(world.models(), grouped(jobs, 1), world.store())) == [f"Written {i}" for i in range(3)]


def test_a_picture_says_its_share_of_the_time_and_the_memory(world):
    jobs = [world.job(i) for i in range(4)]
    events = [e for e in run(world.models(), grouped(jobs, 2), world.store()) if isinstance(e, Written)]
    assert all(event.seconds is not None and 0 <= event.seconds < WAIT for event in events)
    assert all(event.peak_memory is not None and event.peak_memory >= 0 for event in events)
