"""The journal: what is appended is read back, whatever a kill or a full disk did to its end."""

from __future__ import annotations

import json
import os
import resource
import signal
import warnings
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlxdiff.batch.journal import NAME, Done, Journal, Run
from mlxdiff.errors import MlxdiffWarning, OutputError

RUN = Run("r", 7, 4)


def done(i: int) -> Done:
    return Done(f"id{i}", f"{i}.png", "0" * 64)


def recorded(i: int) -> Done:
    """As a journal keeps it that has begun RUN."""
    return replace(done(i), of=("r", 7, 4))


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
    assert reader.done == {f"id{i}": recorded(i) for i in range(3)}
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
        journal.begin(RUN)
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


@given(st.data())
def test_a_byte_that_changed_is_noticed_wherever_it_is(tmp_path_factory, data):
    """No line says anything that was not written: it is as it was, or not believed."""
    folder = tmp_path_factory.mktemp("journal")
    journal = begun(folder, 0)
    journal.append(replace(done(1), bytes=100, inputs="f" * 32, seed=8))
    before = Journal(folder)
    path = folder / NAME
    whole = bytearray(path.read_bytes())
    place = data.draw(st.integers(0, len(whole) - 2))
    whole[place] ^= data.draw(st.integers(1, 255))
    path.write_bytes(bytes(whole))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        after = Journal(folder)
    assert after.done.items() <= before.done.items()
    assert after.runs.items() <= before.runs.items()


def test_a_damaged_run_is_known_from_its_pictures(tmp_path):
    begun(tmp_path)
    path = tmp_path / NAME
    path.write_bytes(path.read_bytes().replace(b'"seed":7,"sum"', b'"seed":8,"sum"', 1))
    with pytest.warns(MlxdiffWarning, match="1 line that cannot be read"):
        assert Journal(tmp_path).runs == {"r": RUN}


def test_lines_without_a_checksum_are_those_of_the_first_version(tmp_path):
    lines = ['{"batch_size":4,"run":"r","seed":7}', '{"id":"id0","path":"0.png","sha256":"' + "0" * 64 + '"}']
    (tmp_path / NAME).write_text("\n".join(lines) + "\n")
    journal = Journal(tmp_path)
    assert journal.runs == {"r": RUN}
    assert journal.done == {"id0": done(0)}
    assert journal.find("other", "id0") == done(0)


def test_a_run_is_replaced_only_where_it_is_the_one_that_is_meant(tmp_path):
    begun(tmp_path, 0)
    other = Run("r", 7, 8)
    assert Journal(tmp_path).begin(other, Run("r", 7, 2)) == RUN
    assert Journal(tmp_path).begin(other, RUN) == other
    assert Journal(tmp_path).runs == {"r": other}


def test_a_journal_that_is_no_file_is_refused_at_once(tmp_path):
    os.mkfifo(tmp_path / NAME)
    with pytest.raises(OutputError, match="cannot be read"):
        Journal(tmp_path)


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
