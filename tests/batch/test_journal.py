"""The journal: what is appended is read back, whatever a kill or a full disk did to its end."""

from __future__ import annotations

import json
import os
import resource
import signal
import warnings

import pytest

from mlxdiff.batch.journal import NAME, Done, Journal, Run
from mlxdiff.errors import MlxdiffWarning, OutputError

RUN = Run("r", 7, 4)


def done(i: int) -> Done:
    return Done(f"id{i}", f"{i}.png", "0" * 64)


def begun(folder, n: int = 3) -> Journal:
    journal = Journal(folder)
    journal.begin(RUN)
    for i in range(n):
        journal.append(done(i))
    return journal


def test_what_is_appended_is_read_by_others(tmp_path):
    reader = Journal(tmp_path)
    begun(tmp_path)
    assert reader.done == {}
    reader.refresh()
    assert reader.done == {f"id{i}": done(i) for i in range(3)}
    assert reader.runs == {"r": RUN}


def test_first_run_of_a_name_holds(tmp_path):
    begun(tmp_path)
    assert Journal(tmp_path).begin(Run("r", 8, 2)) == RUN
    assert Journal(tmp_path).begin(Run("other", 8, 2)) == Run("other", 8, 2)


def test_every_torn_end_is_ignored_and_cut_off(tmp_path):
    begun(tmp_path)
    whole = (tmp_path / NAME).read_bytes()
    before, last = whole[: whole.rstrip(b"\n").rfind(b"\n") + 1], whole[whole.rstrip(b"\n").rfind(b"\n") + 1 :]
    for cut in range(len(last)):
        (tmp_path / NAME).write_bytes(before + last[:cut])
        with warnings.catch_warnings():
            warnings.simplefilter("error")  # a torn end is usual, and no reason to talk
            journal = Journal(tmp_path)
        assert set(journal.done) == {"id0", "id1"}
        journal.append(done(2))
        assert (tmp_path / NAME).read_bytes() == whole


@pytest.mark.parametrize(
    "line", [b"{", b"\xff\x00", b"[]", b'"x"', b'{"id":1}', b"[" * 5000, b'{"run":"a","seed":true}']
)
def test_damaged_line_in_the_middle_is_said_once_and_costs_only_itself(tmp_path, line):
    begun(tmp_path)
    path = tmp_path / NAME
    lines = path.read_bytes().splitlines()
    path.write_bytes(b"\n".join([*lines[:2], line, line, *lines[3:]]) + b"\n")
    with pytest.warns(MlxdiffWarning, match="2 lines that cannot be read") as said:
        journal = Journal(tmp_path)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        journal.refresh()
    assert len(said) == 1
    assert set(journal.done) == {"id0", "id2"}


def test_full_disk_leaves_no_part_of_a_line(tmp_path):
    journal = begun(tmp_path)
    before = (tmp_path / NAME).read_bytes()
    old = resource.getrlimit(resource.RLIMIT_FSIZE)
    ignored = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (len(before) + 20, old[1]))
        with pytest.raises(OutputError):
            journal.append(done(3))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, old)
        signal.signal(signal.SIGXFSZ, ignored)
    assert (tmp_path / NAME).read_bytes() == before
    assert "id3" not in journal.done
    journal.append(done(3))
    assert set(Journal(tmp_path).done) == {"id0", "id1", "id2", "id3"}


def test_deleted_folder_is_said(tmp_path):
    journal = begun(tmp_path / "out")
    os.remove(tmp_path / "out" / NAME)
    os.rmdir(tmp_path / "out")
    with pytest.raises(OutputError):
        journal.append(done(4))


def test_processes_append_whole_lines(tmp_path):
    Journal(tmp_path).begin(RUN)
    children = []
    for child in range(3):
        pid = os.fork()
        if pid == 0:
            journal = Journal(tmp_path)
            for i in range(40):
                journal.append(done(100 * child + i))
            os._exit(0)
        children.append(pid)
    assert [os.waitpid(pid, 0)[1] for pid in children] == [0, 0, 0]
    lines = [json.loads(line) for line in (tmp_path / NAME).read_text().splitlines()]
    assert {line["id"] for line in lines[1:]} == {f"id{100 * child + i}" for child in range(3) for i in range(40)}
    assert len(lines) == 121
