"""A pull killed at any moment, again and again: nothing half done is taken for a file, nothing done is done twice."""

from __future__ import annotations

import hashlib
import math
import os
import random
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import pytest
from hub_server import HubServer
from patience import WAIT
from repositories import NAME, repository

from mlxdiff import hub
from mlxdiff.errors import ModelNotFoundError

KILLS = 24
PULL = f"from mlxdiff import hub; print(hub.pull(hub.plan({NAME!r})).path)"


def files_of(number: int) -> dict[str, bytes]:
    """A repository of some 700 kB; each number has its own weights, but for one file."""
    chance = random.Random(number)
    files = repository(**{"unet/config.json": b'{"number": %d}' % number})
    files["unet/diffusion_pytorch_model.safetensors"] = chance.randbytes(400_000)
    files["vae/diffusion_pytorch_model.safetensors"] = random.Random(0).randbytes(150_000)
    files["text_encoder/model.safetensors"] = chance.randbytes(150_000)
    return files


def start(server: HubServer, cache: Path) -> subprocess.Popen[str]:
    kept = {key: value for key, value in os.environ.items() if not key.startswith("HF_")}
    ours = {"HF_ENDPOINT": server.url, "HF_HUB_CACHE": str(cache), "HF_HOME": str(cache.parent)}
    return subprocess.Popen(
        [sys.executable, "-c", PULL],
        env={**kept, **ours},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def arrived(cache: Path) -> int:
    """Bytes that are on disk, in blobs and in what is to become one."""
    sizes = []
    for path in (cache / "models--owner--name" / "blobs").glob("*"):
        with suppress(FileNotFoundError):  # it has got its name
            sizes.append(path.stat().st_size)
    return sum(sizes)


def check_blobs(cache: Path) -> set[str]:
    """Every blob that has its name is whole; the names."""
    names = set()
    for blob in (cache / "models--owner--name" / "blobs").glob("*"):
        if blob.suffix == ".incomplete":
            continue
        content = blob.read_bytes()
        header = b"" if len(blob.name) == 64 else b"blob %d\0" % len(content)
        assert hashlib.new("sha256" if len(blob.name) == 64 else "sha1", header + content).hexdigest() == blob.name
        names.add(blob.name)
    return names


def check_resolved(contents: dict[str, dict[str, bytes]]) -> None:
    """What `resolve` takes for a model is one, whole."""
    try:
        snapshot = hub.resolve(NAME)
    except ModelNotFoundError:
        return
    assert snapshot.revision is not None
    expected = contents[snapshot.revision]
    assert all((snapshot.path / path).read_bytes() == content for path, content in expected.items())


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="there is no SIGKILL")
def test_a_pull_killed_again_and_again_ends_whole_and_fetches_nothing_twice(online, cache):
    chance = random.Random(20261123)
    online.pace = (8_000, 0.01)
    number = kills = 0
    contents = {online.add(NAME, files_of(number)): files_of(number)}
    while kills < KILLS:
        finished = check_blobs(cache)
        check_resolved(contents)
        begun, held = len(online.requests), arrived(cache)
        # How far it comes is drawn: to its first question, or so many bytes, after which the hub sends no more.
        reach = 0 if kills % 4 == 0 else chance.randrange(300_000)
        online.allow(reach)
        process = start(online, cache)
        while process.poll() is None and not (
            any("/resolve/" in it.path for it in online.requests[begun:])
            and online.sent >= online.allowed
            and (reach == 0 or arrived(cache) > held)
        ):
            time.sleep(0.002)
        time.sleep(chance.uniform(0, 0.02))
        if process.poll() is None:
            process.send_signal(signal.SIGINT if kills % 6 == 5 else signal.SIGKILL)
            kills += 1
        _, said = process.communicate()
        if process.returncode == 0:
            number += 1
            contents[online.add(NAME, files_of(number))] = files_of(number)
        else:
            assert process.returncode < 0 or "KeyboardInterrupt" in said, said
        fetched = {it.path.split("?")[0].rpartition("/")[2] for it in online.requests[begun:] if "/cdn/" in it.path}
        assert not fetched & finished
    assert any("Range" in it.headers for it in online.requests)
    online.allow(math.inf)
    process = start(online, cache)
    said, complaint = process.communicate(timeout=WAIT)
    assert process.returncode == 0, complaint
    newest = files_of(number)
    assert all((Path(said.strip()) / path).read_bytes() == content for path, content in newest.items())
    assert hub.resolve(NAME).path == Path(said.strip())
    check_resolved(contents)
    check_blobs(cache)
    (model,) = [model for model in hub.cached_models() if "main" in model.refs]
    assert all(file.sound for file in hub.verify(model))
