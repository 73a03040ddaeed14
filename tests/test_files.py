"""Files appear whole or not at all; every refusal of the system is one OutputError."""

from __future__ import annotations

import errno
import os
import resource
import signal
import stat
import subprocess
import sys
import textwrap
from pathlib import Path
from types import SimpleNamespace

import pytest
from patience import WAIT

from mlxdiff import files
from mlxdiff.errors import OutputError
from mlxdiff.files import atomic_write, check_writable

needs_limits = pytest.mark.skipif(os.geteuid() == 0, reason="the superuser may write everywhere")


def put(data: bytes):
    return lambda stream: stream.write(data)


def names(folder: Path) -> list[str]:
    return sorted(os.listdir(folder))


def test_the_file_holds_what_was_written_and_nothing_else_is_left(tmp_path):
    atomic_write(tmp_path / "a.bin", put(b"abc"))
    assert (tmp_path / "a.bin").read_bytes() == b"abc"
    assert names(tmp_path) == ["a.bin"]


def test_a_new_file_has_the_permissions_of_any_other(tmp_path):
    (tmp_path / "usual").write_bytes(b"")
    atomic_write(tmp_path / "ours", put(b""))
    assert stat.S_IMODE((tmp_path / "ours").stat().st_mode) == stat.S_IMODE((tmp_path / "usual").stat().st_mode)


def test_folders_are_made_at_write_time_only(tmp_path):
    target = tmp_path / "out" / "deep" / "a.png"
    check_writable(target)
    assert names(tmp_path) == []
    atomic_write(target, put(b"x"))
    assert target.read_bytes() == b"x"


def test_an_existing_file_is_kept_without_force_and_replaced_with_it(tmp_path):
    target = tmp_path / "a.png"
    target.write_bytes(b"old")
    with pytest.raises(OutputError, match=r"exists already\. .*--force"):
        check_writable(target)
    with pytest.raises(OutputError, match=r"exists already\. .*--force"):
        atomic_write(target, put(b"new"))
    assert target.read_bytes() == b"old"
    check_writable(target, force=True)
    atomic_write(target, put(b"new"), force=True)
    assert target.read_bytes() == b"new"
    assert names(tmp_path) == ["a.png"]


def appears_meanwhile(target: Path):
    def write(stream):
        stream.write(b"ours")
        target.write_bytes(b"theirs")

    return write


def test_a_file_that_appears_while_ours_is_written_is_not_overwritten(tmp_path):
    target = tmp_path / "a.png"
    with pytest.raises(OutputError, match="exists already"):
        atomic_write(target, appears_meanwhile(target))
    assert target.read_bytes() == b"theirs"
    assert names(tmp_path) == ["a.png"]


@pytest.mark.parametrize("number", [errno.EPERM, errno.EOPNOTSUPP])
def test_file_systems_without_hard_links_behave_the_same(tmp_path, monkeypatch, number):
    def refuse(*_):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(files.os, "link", refuse)
    atomic_write(tmp_path / "a", put(b"ours"))
    assert (tmp_path / "a").read_bytes() == b"ours"
    with pytest.raises(OutputError, match="exists already"):
        atomic_write(tmp_path / "b", appears_meanwhile(tmp_path / "b"))
    assert (tmp_path / "b").read_bytes() == b"theirs"
    assert names(tmp_path) == ["a", "b"]


@pytest.mark.parametrize("error", [KeyboardInterrupt, ZeroDivisionError, ValueError])
def test_an_error_while_writing_passes_and_leaves_nothing(tmp_path, error):
    (tmp_path / "old").write_bytes(b"old")

    def write(stream):
        stream.write(b"half")
        raise error

    for target in ("old", "new"):
        with pytest.raises(error):
            atomic_write(tmp_path / target, write, force=True)
    assert names(tmp_path) == ["old"]
    assert (tmp_path / "old").read_bytes() == b"old"


@pytest.mark.parametrize(
    ("number", "words"),
    [
        (errno.ENOSPC, "disk is full"),
        (errno.EDQUOT, "disk is full"),
        (errno.EACCES, "no permission"),
        (errno.EROFS, "read-only"),
        (errno.EIO, "Input/output error"),
    ],
)
def test_what_the_system_refuses_is_an_output_error(tmp_path, number, words):
    def write(stream):
        stream.write(b"half")
        raise OSError(number, os.strerror(number))

    with pytest.raises(OutputError, match=words) as caught:
        atomic_write(tmp_path / "a.png", write)
    assert caught.value.problem.endswith(".")
    assert caught.value.remedy.endswith(".")
    assert names(tmp_path) == []


def test_a_limit_of_the_system_that_is_met_while_flushing_leaves_nothing(tmp_path):
    """A real short write, which Python reports only when its buffer is flushed."""
    limits, handler = resource.getrlimit(resource.RLIMIT_FSIZE), signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, limits[1]))
    try:
        with pytest.raises(OutputError, match="File too large"):
            atomic_write(tmp_path / "a.png", put(b"x" * 5000))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, handler)
    assert names(tmp_path) == []


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="Linux has a full disk to try")
def test_a_full_device(tmp_path, monkeypatch):
    monkeypatch.setattr("builtins.open", lambda *_args, **_kwargs: os.fdopen(os.open("/dev/full", os.O_WRONLY), "wb"))
    with pytest.raises(OutputError, match="disk is full"):
        atomic_write(tmp_path / "a.png", put(b"x"))


@pytest.mark.parametrize("check", [check_writable, lambda path: atomic_write(path, put(b""))])
def test_paths_that_cannot_be(tmp_path, check):
    (tmp_path / "file").write_bytes(b"")
    (tmp_path / "folder").mkdir()
    for path, words in [
        (tmp_path / "folder", "is a folder"),
        (tmp_path / "file" / "a.png", "part of its path is a file"),
        (tmp_path / "file" / "deep" / "a.png", "part of its path is a file"),
        (tmp_path / ("long" * 100 + ".png"), "too long"),
        (tmp_path / "a\0b.png", "cannot be written"),
    ]:
        with pytest.raises(OutputError, match=words):
            check(path)
    assert names(tmp_path) == ["file", "folder"]
    assert names(tmp_path / "folder") == []


def test_a_name_as_long_as_the_system_allows_is_written(tmp_path):
    name = "n" * (os.pathconf(tmp_path, "PC_NAME_MAX") - 4) + ".png"
    check_writable(tmp_path / name)
    atomic_write(tmp_path / name, put(b"x"))
    assert names(tmp_path) == [name]


def test_a_dangling_link_counts_as_a_file(tmp_path):
    (tmp_path / "a").symlink_to(tmp_path / "nowhere")
    for check in (check_writable, lambda path: atomic_write(path, put(b""))):
        with pytest.raises(OutputError, match="exists already"):
            check(tmp_path / "a")
    assert names(tmp_path) == ["a"]


@needs_limits
def test_a_folder_without_permission(tmp_path):
    tmp_path.chmod(0o500)
    try:
        for path in (tmp_path / "a", tmp_path / "new" / "a"):
            for check in (check_writable, lambda path: atomic_write(path, put(b""))):
                with pytest.raises(OutputError, match="no permission"):
                    check(path)
    finally:
        tmp_path.chmod(0o700)


def test_a_folder_without_permission_is_foreseen(tmp_path, monkeypatch):
    monkeypatch.setattr(files.os, "access", lambda path, _mode: Path(path) != tmp_path)
    with pytest.raises(OutputError, match="no permission"):
        check_writable(tmp_path / "new" / "a.png")


def test_a_read_only_disk_is_foreseen_as_one(tmp_path, monkeypatch):
    monkeypatch.setattr(files.os, "access", lambda *_: False)
    monkeypatch.setattr(files.os, "statvfs", lambda _: SimpleNamespace(f_flag=os.ST_RDONLY))
    with pytest.raises(OutputError, match="on a read-only disk"):
        check_writable(tmp_path / "a.png")


def test_relative_paths_are_relative_to_the_current_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    check_writable("a.png")
    atomic_write("a.png", put(b"x"))
    with pytest.raises(OutputError, match=r"a\.png exists"):
        check_writable("a.png")


def test_an_interrupted_process_leaves_nothing(tmp_path):
    program = textwrap.dedent("""
        import sys, time
        from mlxdiff.files import atomic_write
        def write(stream):
            stream.write(b"half")
            stream.flush()
            print("writing", flush=True)
            time.sleep(60)
        atomic_write(sys.argv[1], write)
    """)
    process = subprocess.Popen(
        [sys.executable, "-c", program, str(tmp_path / "a.png")], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    )
    assert process.stdout is not None
    assert process.stdout.readline() == b"writing\n"
    assert len(names(tmp_path)) == 1
    process.send_signal(signal.SIGINT)
    process.wait(WAIT)
    process.stdout.close()
    assert names(tmp_path) == []


HOLD = """
import sys, time
from mlxdiff import files
if len(sys.argv) > 2:
    files.platform.node = lambda: sys.argv[2]
def write(stream):
    stream.write(b"half")
    stream.flush()
    print("writing", flush=True)
    time.sleep(60)
files.atomic_write(sys.argv[1], write)
"""


@pytest.fixture
def writer(tmp_path):
    """Starts a process that is writing, under another machine's name if one is given."""
    started = []

    def start(*machine: str) -> subprocess.Popen:
        command = [sys.executable, "-c", HOLD, str(tmp_path / "a.png"), *machine]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        assert process.stdout is not None
        assert process.stdout.readline() == "writing\n"
        started.append(process)
        return process

    yield start
    for process in started:
        process.kill()
        process.communicate()


def test_what_a_killed_process_left_is_removed_and_what_a_living_one_writes_is_not(tmp_path, writer):
    process = writer()
    files.remove_parts(tmp_path)
    assert len(names(tmp_path)) == 1
    process.kill()
    process.wait()
    files.remove_parts(tmp_path)
    assert names(tmp_path) == []


def test_a_living_process_keeps_its_file_whatever_its_number_and_machine_are(tmp_path, writer):
    """Two containers may have one name, and numbers of processes that mean nothing to each other."""
    writer("another")
    (part,) = tmp_path.glob(".mlxdiff-*.part")
    _, _, _, token = part.name.split("-")
    renamed = part.with_name(f".mlxdiff-{files._host()}-4194303-{token}")  # no process has this number
    part.rename(renamed)
    files.remove_parts(tmp_path)
    assert renamed.exists()


def test_what_another_machine_left_is_removed_after_an_hour(tmp_path, writer):
    process = writer("another")
    process.kill()
    process.wait()
    files.remove_parts(tmp_path)
    (part,) = tmp_path.glob(".mlxdiff-*.part")
    os.utime(part, (0, 0))
    files.remove_parts(tmp_path)
    assert names(tmp_path) == []


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.ENOTSUP])
def test_without_locks_the_number_of_the_process_decides(tmp_path, writer, monkeypatch, number):
    import fcntl

    def refuse(*_):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(fcntl, "flock", refuse)
    process = writer()
    files.remove_parts(tmp_path)
    assert len(names(tmp_path)) == 1
    process.kill()
    process.wait()
    files.remove_parts(tmp_path)
    assert names(tmp_path) == []
    atomic_write(tmp_path / "b", put(b"x"))
    assert names(tmp_path) == ["b"]


def test_own_parts_are_removed_before_the_process_ends(tmp_path):
    def write(stream):
        stream.write(b"half")
        files.remove_parts(tmp_path)
        assert len(names(tmp_path)) == 1
        files.remove_parts(tmp_path, ours=True)
        assert names(tmp_path) == []
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        atomic_write(tmp_path / "a", write)


def test_a_full_disk_is_told_from_other_refusals():
    for number, full in ((errno.ENOSPC, True), (errno.EDQUOT, True), (errno.EFBIG, False)):
        cause = OSError(number, os.strerror(number))
        error = files.output_error(Path("a"), cause)
        error.__cause__ = cause
        assert files.is_full(error) is files.is_full(cause) is full


def test_only_regular_files_are_opened(tmp_path):
    (tmp_path / "file").write_bytes(b"content")
    (tmp_path / "link").symlink_to("file")
    for name in ("file", "link"):
        with files.open_regular(tmp_path / name) as file:
            assert file.read() == b"content"
    os.mkfifo(tmp_path / "pipe")  # opening it would wait for a writer for ever
    for path in (tmp_path / "pipe", tmp_path, Path("/dev/zero")):
        with pytest.raises(OSError, match="no regular file"):
            files.open_regular(path)
