"""What an unfinished command leaves, and to whom."""

from __future__ import annotations

import os

import pytest

from mlxdiff.batch.journal import NAME, Done, Run
from mlxdiff.batch.unfinished import CELLS, RUN, Unfinished

KEY = "0123456789abcdef"
PICTURE = Done("id", "a.png", "0" * 64)


@pytest.fixture(params=[RUN, CELLS])
def suffix(request) -> str:
    return request.param


def stopped(folder, suffix, seed: int = 5) -> None:
    """As a process leaves it that was killed after its first picture."""
    left = Unfinished(folder, KEY, suffix)
    left.begin(Run(KEY, seed, 4))
    left.journal.append(PICTURE)
    assert left._claim is not None
    os.close(left._claim.descriptor)


def test_nothing_is_written_before_the_first_picture(tmp_path, suffix):
    made = Unfinished(tmp_path / "out", KEY, suffix)
    assert made.run is None
    made.begin(Run(KEY, 5, 4))
    made.release()
    assert os.listdir(tmp_path) == []


def test_the_next_process_goes_on_and_leaves_nothing(tmp_path, suffix):
    stopped(tmp_path, suffix)
    found = Unfinished(tmp_path, KEY, suffix)
    assert found.run == Run(KEY, 5, 4)
    assert set(found.journal.done) == {"id"}
    found.begin(Run(KEY, 5, 2))
    assert found.run == Run(KEY, 5, 2), "another batch size than before"
    found.complete()
    assert os.listdir(tmp_path) == []


def test_given_up_it_is_there_for_the_next(tmp_path, suffix):
    stopped(tmp_path, suffix)
    Unfinished(tmp_path, KEY, suffix).release()
    assert Unfinished(tmp_path, KEY, suffix).run == Run(KEY, 5, 4)


def test_a_living_process_shares_with_nobody(tmp_path, suffix):
    stopped(tmp_path, suffix)
    first = Unfinished(tmp_path, KEY, suffix)
    second = Unfinished(tmp_path, KEY, suffix)
    assert second.run is None
    second.begin(Run(KEY, 9, 4))
    second.journal.append(PICTURE)
    assert second.journal.path != first.journal.path
    for each in (first, second):
        each.complete()
    assert os.listdir(tmp_path) == []


def test_several_that_were_left_are_all_found(tmp_path, suffix):
    held = Unfinished(tmp_path, KEY, suffix)
    held.begin(Run(KEY, 1, 4))
    held.journal.append(PICTURE)
    stopped(tmp_path, suffix, seed=2)
    held.release()
    found = [Unfinished(tmp_path, KEY, suffix) for _ in range(3)]
    assert {each.run.seed if each.run else None for each in found} == {1, 2, None}


def test_another_command_is_not_concerned(tmp_path, suffix):
    stopped(tmp_path, suffix)
    assert Unfinished(tmp_path, KEY[::-1], suffix).run is None


def test_cells_lie_beside_their_journal(tmp_path):
    made = Unfinished(tmp_path, KEY, CELLS)
    assert made.pictures.parent == tmp_path
    made.begin(Run(KEY, 5, 4))
    made.journal.append(PICTURE)
    assert os.listdir(made.pictures) == [NAME]
