"""What was read and found sound is not read again until it changes, in whatever way."""

from __future__ import annotations

import hashlib
import os
import time

import pytest

from mlxdiff import hub
from mlxdiff.hub import verified

CONTENT = b"content"
DIGEST = hashlib.sha256(CONTENT).hexdigest()


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "file"
    path.write_bytes(CONTENT)
    return path


def remembered(path) -> verified.Verified:
    """The record after the file was read, some time after it was written."""
    (key, entry), *_ = verified.entry_of(path, DIGEST).items()
    verified.record({key: [*entry[:-1], time.time_ns() + 10**9]})
    return verified.read_verified()


def test_a_file_that_did_not_change_is_known(file):
    assert not verified.is_verified(verified.read_verified(), file, DIGEST)
    record = remembered(file)
    assert verified.is_verified(record, file, DIGEST)
    assert not verified.is_verified(record, file, "f" * 64)
    assert verified.recorded_digest(record, file) == DIGEST


def test_a_file_as_young_as_its_record_is_read_again(file, monkeypatch):
    now = file.stat().st_ctime_ns + verified._TICK // 2  # whenever this test comes to it
    monkeypatch.setattr(verified.time, "time_ns", lambda: now)
    verified.record(verified.entry_of(file, DIGEST))
    assert not verified.is_verified(verified.read_verified(), file, DIGEST)


@pytest.mark.parametrize("how", ["content", "content of the same size and time", "replaced", "gone", "longer"])
def test_any_change_makes_it_unknown(file, how):
    record, status = remembered(file), file.stat()
    time.sleep(0.02)  # a tick of the clock of the file system
    if how == "replaced":
        other = file.with_name("other")
        other.write_bytes(CONTENT)
        os.replace(other, file)
    elif how == "gone":
        file.unlink()
    else:
        file.write_bytes(b"x" * (len(CONTENT) + (how == "longer")))
        if how == "content of the same size and time":
            os.utime(file, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert not verified.is_verified(record, file, DIGEST)


@pytest.mark.parametrize(
    "content",
    [b"", b"{", b"[]", b'{"files": []}', b'{"files": {"a": 1, "b": [1]}}', b"\xff", b"[" * 100_000, b"1" * 9999],
)
def test_a_damaged_record_costs_only_time(file, content):
    (hub.home()).mkdir(parents=True, exist_ok=True)
    (hub.home() / "verified.json").write_bytes(content)
    assert verified.read_verified() == {}
    assert verified.is_verified(remembered(file), file, DIGEST)


def test_a_record_that_cannot_be_written_is_no_error(file, tmp_path, monkeypatch):
    (tmp_path / "no folder").write_bytes(b"")
    monkeypatch.setenv("MLXDIFF_HOME", str(tmp_path / "no folder"))
    verified.record(verified.entry_of(file, DIGEST))
    assert verified.read_verified() == {}


def test_files_that_are_gone_are_forgotten(file, tmp_path):
    remembered(file)
    file.unlink()
    other = tmp_path / "other"
    other.write_bytes(CONTENT)
    assert list(remembered(other)) == [os.path.realpath(other)]


@pytest.mark.parametrize("size", [0, 7, 3_000_000])
def test_hashes_are_those_of_the_hub(tmp_path, size):
    content = bytes(size)
    (tmp_path / "x").write_bytes(content)
    assert verified.digest_of(tmp_path / "x", "f" * 64) == hashlib.sha256(content).hexdigest()
    assert verified.digest_of(tmp_path / "x", "f" * 40) == hashlib.sha1(b"blob %d\0" % size + content).hexdigest()


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="there are no pipes with names")
def test_a_pipe_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(OSError, match="regular"):
        verified.digest_of(tmp_path / "pipe", DIGEST)
