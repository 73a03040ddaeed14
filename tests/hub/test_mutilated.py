"""A cache mutilated at random: every question to it ends in an answer or one error, and nothing else is hurt."""

from __future__ import annotations

import os
import random
import shutil
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest
from repositories import NAME, repository, write

from mlxdiff import hub
from mlxdiff.errors import MlxdiffError

FILES = repository(**{"safety_checker/model.safetensors": b"checker", "README.md": b"words"})
ROUNDS = 12


def tree(folder: Path) -> dict[str, object]:
    """Everything below a folder: contents, and where links lead."""
    return {
        str(path): os.readlink(path) if path.is_symlink() else path.read_bytes() if path.is_file() else None
        for path in sorted(folder.rglob("*"))
    }


def mutilations(victim: Path) -> list[Callable[[Path], object]]:
    """What may have happened to one path of a cache."""

    def remove(path: Path) -> None:
        shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()

    def instead(path: Path, make: Callable[[], object]) -> None:
        remove(path)
        make()

    def link(path: Path, target: str | Path) -> None:
        # Folders that are links are their owner's wish to have the cache elsewhere.
        if path.is_symlink() or not path.is_dir():
            instead(path, lambda: path.symlink_to(target))

    def fill(path: Path, content: bytes | None = None) -> None:
        if path.is_file():  # no pipe
            old = path.read_bytes()
            path.write_bytes((old[:-1] + bytes([old[-1] ^ 1]) if old else b"x") if content is None else content)

    return [
        remove,
        fill,
        lambda path: fill(path, b""),
        lambda path: fill(path, b"\xff" * 5000),
        lambda path: link(path, victim / "keep"),
        lambda path: link(path, victim),
        lambda path: link(path, "/no/where"),
        lambda path: link(path, path.name),
        lambda path: link(path, os.path.relpath(victim / ("f" * 40), path.parent)),
        lambda path: instead(path, path.mkdir),
        lambda path: instead(path, lambda: os.mkfifo(path)),
        lambda path: path.rename(path.with_name("\x1b[2J\u202e")),
        lambda path: path.rename(path.with_name("f" * 40)),
        lambda path: (path.parent / f"{'e' * 40}.incomplete").symlink_to(victim / "keep"),
        lambda path: (path.parent / f"{'d' * 64}.incomplete").write_bytes(b"123"),
        lambda path: (path.parent / f"{'c' * 40}.incomplete").mkdir(),
    ]


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="there are no pipes with names")
def test_a_mutilated_cache_hurts_nothing_else(online, cache, tmp_path):
    victim = write(tmp_path / "victim", {"keep": b"precious", "f" * 40: b"precious too", "folder/x": b"x"})
    online.add(NAME, FILES)
    online.add("other/model", repository(**{"mlxdiff.json": b'{"other": 1}'}))
    hub.pull(hub.plan("other/model"))
    write(cache / "models--big--language-model", {f"blobs/{'a' * 64}": b"llm", "refs/main": b"b" * 40})
    write(cache / "models--big--language-model" / "snapshots" / ("b" * 40), {"config.json": b"{}"})
    seed = random.randrange(2**32) if "CI" not in os.environ else 1
    chance, do = random.Random(seed), mutilations(victim)
    storage = cache / "models--owner--name"
    for number in range(ROUNDS):
        where = f"seed {seed}, round {number}"
        online.faults.clear()
        hub.pull(hub.plan(NAME, force=True))
        others = {path: tree(path) for path in (victim, cache / "models--big--language-model")}
        for _ in range(chance.randint(1, 4)):
            with suppress(OSError, shutil.Error):
                path = chance.choice(sorted(storage.rglob("*")))
                if Path(os.path.realpath(path)).is_relative_to(
                    storage
                ):  # what is done to it is not done to what it leads to
                    chance.choice(do)(path)
        start = time.process_time()

        def verified() -> None:
            for model in hub.cached_models():
                files = list(hub.verify(model))
                assert all(file.why for file in files if not file.sound)
                hub.remove_damaged(model, files)

        calls: list[Callable[[], object]] = [
            *(hub.cached_models, lambda: hub.find_models(NAME), lambda: hub.resolve(NAME), verified, hub.prunable),
            *(lambda: hub.removal_of("big/language-model"), lambda: hub.pull(hub.plan(NAME))),
            *(lambda: hub.remove(hub.prunable()), lambda: hub.remove(hub.removal_of(NAME))),
        ]
        chance.shuffle(calls)
        for call in calls:
            with suppress(MlxdiffError):
                call()
        assert time.process_time() - start < 10, where
        assert {path: tree(path) for path in others} == others, where
        assert hub.resolve("other/model"), where
        if os.path.lexists(storage):
            shutil.rmtree(storage) if storage.is_dir() and not storage.is_symlink() else storage.unlink()
