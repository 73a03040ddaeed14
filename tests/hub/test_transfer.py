"""Files that come over bad connections: cut, damaged, refused and killed, and what is asked for after that."""

from __future__ import annotations

import random
import shutil
import threading
import time

import pytest
from hub_server import Blob, HubServer
from huggingface_hub.utils import WeakFileLock
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from patience import WAIT
from repositories import NAME, repository

from mlxdiff import hub
from mlxdiff.errors import CheckpointError, MlxdiffError, ModelNotFoundError
from mlxdiff.hub import retry, transfer

WEIGHTS = "unet/diffusion_pytorch_model.safetensors"
CONTENT = random.Random(0).randbytes(300_000)
FILES = repository(**{WEIGHTS: CONTENT})


def identical(snapshot: hub.Snapshot, files: dict[str, bytes] = FILES) -> bool:
    return all((snapshot.path / path).read_bytes() == content for path, content in files.items())


def ranges(server: HubServer, part: str = WEIGHTS) -> list[str | None]:
    return [asked.headers.get("Range") for asked in server.requests if asked.method == "GET" and part in asked.path]


def leftovers(cache) -> list[str]:
    return [path.name for path in cache.rglob("*") if path.name.endswith((".incomplete", ".link", ".part"))]


@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(cuts=st.lists(st.integers(1, len(CONTENT) + 10), min_size=1, max_size=6))
def test_connections_cut_anywhere_are_taken_up_where_they_ended(online, cache, cuts):
    shutil.rmtree(cache, ignore_errors=True)
    online.faults.clear()
    online.requests.clear()
    online.add(NAME, FILES)
    for cut in cuts:
        online.cut("/cdn/", after=cut)
    snapshot = hub.pull(hub.plan(NAME))
    assert identical(snapshot)
    assert not leftovers(cache)


def test_a_broken_download_goes_on_in_the_next_pull(online, cache):
    online.add(NAME, FILES)
    plan = hub.plan(NAME)
    weights = next(file for file in plan.files if file.path == WEIGHTS)
    part = transfer.part_of(plan.folder.parents[1] / "blobs" / weights.digest)
    part.parent.mkdir(parents=True)
    part.write_bytes(CONTENT[:123_456])  # as a killed process leaves it
    plan = hub.plan(NAME)
    assert next(file for file in plan.files if file.path == WEIGHTS).arrived == 123_456
    assert plan.missing == plan.size - 123_456
    assert identical(hub.pull(plan))
    assert ranges(online) == ["bytes=123456-"]
    assert not leftovers(cache)


def test_a_cut_is_followed_by_the_rest_if_it_is_still_the_same(online):
    online.add(NAME, FILES)
    plan = hub.plan(NAME)
    digest = next(file.digest for file in plan.files if file.path == WEIGHTS)
    online.cut(f"/cdn/{digest}", after=200_000)
    assert identical(hub.pull(plan))
    resumed = [asked for asked in online.requests if f"/cdn/{digest}" in asked.path and "Range" in asked.headers]
    assert [asked.headers["Range"] for asked in resumed] == ["bytes=200000-"]
    assert resumed[0].headers["If-Range"] == f'"{digest}"'


def test_a_server_without_ranges_sends_it_all_again(online, cache):
    online.add(NAME, FILES)
    online.cut("/cdn/", after=1000, times=3)
    online.send_whole("/cdn/", times=9)
    assert identical(hub.pull(hub.plan(NAME)))
    assert not leftovers(cache)


@pytest.mark.parametrize("left", [b"x" * 1000, CONTENT[:1000] + b"x", b"x" * len(CONTENT), CONTENT + b"more"])
def test_a_damaged_beginning_is_thrown_away(online, cache, left):
    online.add(NAME, FILES)
    plan = hub.plan(NAME)
    weights = next(file for file in plan.files if file.path == WEIGHTS)
    part = transfer.part_of(plan.folder.parents[1] / "blobs" / weights.digest)
    part.parent.mkdir(parents=True)
    part.write_bytes(left)
    assert identical(hub.pull(plan))
    assert ranges(online)[-1] is None
    assert not leftovers(cache)


@pytest.mark.parametrize("path", [WEIGHTS, "unet/config.json"])
def test_a_damaged_file_is_fetched_once_more_and_then_said(online, cache, path):
    online.add(NAME, FILES)
    plan = hub.plan(NAME)
    digest = next(file.digest for file in plan.files if file.path == path)
    pattern = f"/cdn/{digest}" if path == WEIGHTS else path
    online.corrupt(pattern, at=3)
    assert identical(hub.pull(plan))
    (plan.folder / path).resolve().unlink()
    online.corrupt(pattern, at=3, times=2)
    with pytest.raises(CheckpointError, match=rf"{path} of {NAME} arrived damaged twice.* removed\."):
        hub.pull(hub.plan(NAME))
    assert not (plan.folder / path).exists()
    assert not leftovers(cache)
    with pytest.raises(ModelNotFoundError):
        hub.resolve(NAME)


@pytest.mark.parametrize("status", [408, 429, 500, 502, 503, 504])
def test_failures_that_pass_are_tried_again(online, status):
    online.add(NAME, FILES)
    online.fail("/api/models/", status, times=1)
    online.fail("/resolve/", status, times=3)
    online.fail("/cdn/", status, times=2)
    assert identical(hub.pull(hub.plan(NAME)))


@pytest.mark.parametrize("status", [401, 403, 404])
def test_failures_that_stay_are_not(online, status):
    online.add(NAME, FILES)
    plan = hub.plan(NAME)
    online.fail(WEIGHTS, status, times=99)
    with pytest.raises(ModelNotFoundError):
        hub.pull(plan)
    assert len(ranges(online)) == 1


def test_patience_ends(online):
    online.add(NAME, FILES)
    online.fail(WEIGHTS, 503, times=99)
    with pytest.raises(MlxdiffError, match="HTTP 503"):
        hub.pull(hub.plan(NAME))
    assert len(ranges(online)) == retry.TRIES


def test_the_hub_says_how_long_to_wait(online):
    online.add(NAME, FILES)
    plan = hub.plan(NAME)
    online.fail(WEIGHTS, 429, times=1, Retry_After="1")
    start = time.monotonic()
    assert identical(hub.pull(plan))
    assert time.monotonic() - start >= 1.0
    online.fail("/api/models/", 429, times=1, Retry_After="7200")
    with pytest.raises(MlxdiffError, match="too many requests"):
        hub.plan(NAME)


def test_a_hub_that_falls_silent_is_asked_again(online, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_DOWNLOAD_TIMEOUT", 3.0)
    online.add(NAME, FILES)
    plan = hub.plan(NAME)
    online.slow(WEIGHTS, WAIT)
    assert identical(hub.pull(plan))
    assert len(ranges(online)) == 2


def test_something_too_long_is_no_hub(online):
    online.add(NAME, FILES)
    plan = hub.plan(NAME)
    online.repositories[NAME].commits[plan.commit]["vae/config.json"] = Blob(b"<html>" * 100, lfs=False)
    with pytest.raises(MlxdiffError, match="does not answer as a hub does"):
        hub.pull(plan)
    assert not (plan.folder / "vae/config.json").exists()


def test_two_pulls_at_once_fetch_each_file_once(online, cache):
    online.add(NAME, FILES)
    online.pace = (20_000, 0.02)
    plans = [hub.plan(NAME), hub.plan(NAME)]
    found: list[hub.Snapshot] = []
    threads = [threading.Thread(target=lambda plan=plan: found.append(hub.pull(plan))) for plan in plans]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 2
    assert all(identical(snapshot) for snapshot in found)
    assert len(ranges(online)) == 1
    assert not leftovers(cache)


def test_several_files_come_at_once(online):
    files = {
        path: CONTENT[:200_000] + path.encode() if path.endswith(".safetensors") else content
        for path, content in FILES.items()
    }
    online.add(NAME, files)
    plan = hub.plan(NAME)
    weights = {path for path in files if path.endswith(".safetensors")}
    begun: list[str] = []
    ended: list[str] = []
    all_begun = threading.Event()

    def follow(file: hub.PlannedFile, done: int) -> None:
        if file.path.endswith(".safetensors"):
            (ended if done == file.size else begun).append(file.path)
            if set(begun) == weights:
                all_begun.set()
            if len(ended) == 1:
                assert set(begun) == weights

    online.hold("/cdn/", 20_000, all_begun)  # none ends before
    assert identical(hub.pull(plan, follow), files)
    assert len(ended) == 3


def test_the_weights_come_last(online):
    online.add(NAME, FILES)
    hub.pull(hub.plan(NAME))
    asked = [asked.path.rpartition("/")[2] for asked in online.requests if "/resolve/" in asked.path]
    kinds = [name.endswith(".safetensors") for name in asked]
    assert kinds == sorted(kinds)
    assert any(kinds)


def test_an_interrupt_keeps_what_has_arrived(online, cache):
    online.add(NAME, FILES)
    online.pace = (10_000, 0.02)

    def interrupt(file: hub.PlannedFile, done: int) -> None:
        if file.path == WEIGHTS and done > 50_000:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        hub.pull(hub.plan(NAME), interrupt)
    online.pace = None
    plan = hub.plan(NAME)
    assert next(file.arrived for file in plan.files if file.path == WEIGHTS) > 50_000
    assert identical(hub.pull(plan))
    assert not leftovers(cache)


def test_a_lock_that_another_program_holds_is_waited_for(online, cache):
    online.add(NAME, FILES)
    plan = hub.plan(NAME)
    digest = next(file.digest for file in plan.files if file.path == WEIGHTS)
    lock = cache / ".locks" / plan.folder.parents[1].name / f"{digest}.lock"
    lock.parent.mkdir(parents=True)
    with WeakFileLock(lock):
        pulling = threading.Thread(target=hub.pull, args=(plan,))
        pulling.start()
        others = {file.path for file in plan.files if file.path != WEIGHTS}
        end = time.monotonic() + WAIT
        while not all(any(asked.endswith(path) for asked in online.paths()) for path in others):
            assert time.monotonic() < end
            time.sleep(0.01)
        time.sleep(0.3)  # only the weights are left
        assert not ranges(online)
        assert pulling.is_alive()
    pulling.join()
    assert identical(hub.resolve(NAME))


def test_a_cache_without_links_holds_the_files_themselves(online, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_DISABLE_SYMLINKS", True, raising=False)
    online.add(NAME, FILES)
    snapshot = hub.pull(hub.plan(NAME))
    assert identical(snapshot)
    assert not any(path.is_symlink() for path in snapshot.path.rglob("*"))
    assert hub.plan(NAME).missing == 0


@pytest.mark.parametrize("links", [True, False])
def test_files_of_the_same_content_come_at_once(online, monkeypatch, links):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_DISABLE_SYMLINKS", not links)
    files = {path: CONTENT if path.endswith(".safetensors") else b"{}" for path in FILES} | {
        "model_index.json": FILES["model_index.json"]
    }
    online.add(NAME, files)
    assert identical(hub.pull(hub.plan(NAME)), files)
    assert hub.plan(NAME).missing == 0


def test_a_whole_file_is_reported_once_and_only_when_it_is_sound(online, monkeypatch):
    monkeypatch.setattr(transfer, "REPORT_EVERY", 0.0)
    online.add(NAME, FILES)
    plan = hub.plan(NAME)
    digest = next(file.digest for file in plan.files if file.path == WEIGHTS)
    online.corrupt(f"/cdn/{digest}", at=0)
    seen: list[int] = []
    blob = plan.folder.parents[1] / "blobs" / digest

    def follow(file: hub.PlannedFile, done: int) -> None:
        if file.path == WEIGHTS:
            assert (done == file.size) == blob.exists()
            seen.append(done)

    hub.pull(plan, follow)
    assert seen.count(len(CONTENT)) == 1
    assert seen.count(0) == 2
