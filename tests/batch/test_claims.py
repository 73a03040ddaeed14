"""Claims: one holder at a time, free at once when it dies, and no file left behind."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys

from mlxdiff.batch import claims

HOLD = """
import sys, time
from pathlib import Path
from mlxdiff.batch import claims
claim = claims.take(Path(sys.argv[1]), "group")
print("taken" if claim else "not", flush=True)
time.sleep(60)
"""


def holder(folder) -> subprocess.Popen:
    process = subprocess.Popen([sys.executable, "-c", HOLD, str(folder)], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "taken\n"
    return process


def test_one_holder_at_a_time(tmp_path):
    first = claims.take(tmp_path, "group")
    assert first is not None
    assert claims.take(tmp_path, "group") is None
    assert claims.take(tmp_path, "other") is not None
    first.release()
    second = claims.take(tmp_path, "group")
    assert second is not None
    second.release()
    assert [path.name for path in tmp_path.iterdir()] == [".mlxdiff-other.lock"]


def test_killed_holder_gives_up_at_once_and_its_file_is_swept(tmp_path):
    with holder(tmp_path) as process:
        assert claims.take(tmp_path, "group") is None
        claims.sweep(tmp_path)
        assert claims.take(tmp_path, "group") is None, "the claim of a living process is swept"
        process.send_signal(signal.SIGKILL)
    assert os.listdir(tmp_path) == [".mlxdiff-group.lock"]
    taken = claims.take(tmp_path, "group")
    assert taken is not None
    os.close(taken.descriptor)  # as if killed
    claims.sweep(tmp_path)
    assert os.listdir(tmp_path) == []


def test_all_or_none(tmp_path):
    held = claims.take(tmp_path, "b")
    assert claims.take_all(tmp_path, ["c", "a", "b"]) is None
    assert os.listdir(tmp_path) == [".mlxdiff-b.lock"], "what was taken before is free again"
    assert held is not None
    held.release()
    taken = claims.take_all(tmp_path, ["c", "a", "b"])
    assert taken is not None
    assert claims.take_all(tmp_path, ["a"]) is None
    claims.release(taken)
    assert os.listdir(tmp_path) == []


def test_a_disk_that_refuses_does_not_keep_a_claim(tmp_path, monkeypatch):
    held = claims.take(tmp_path, "a")

    def refuse(*_, **__):
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    assert held is not None
    with monkeypatch.context() as patch:
        patch.setattr(claims.Path, "unlink", refuse)
        held.release()
    again = claims.take(tmp_path, "a")
    assert again is not None
    again.release()


def test_many_processes_never_hold_one_claim_together(tmp_path):
    """Each enters a region that must be empty, by making a file that must not be there."""
    children = []
    for _ in range(4):
        pid = os.fork()
        if pid == 0:
            entered = 0
            while entered < 50:
                claim = claims.take(tmp_path, "group")
                if claim is None:
                    continue
                os.close(os.open(tmp_path / "inside", os.O_CREAT | os.O_EXCL))
                os.unlink(tmp_path / "inside")
                claim.release()
                entered += 1
            os._exit(0)
        children.append(pid)
    assert [os.waitpid(pid, 0)[1] for pid in children] == [0] * 4
    assert os.listdir(tmp_path) == []
