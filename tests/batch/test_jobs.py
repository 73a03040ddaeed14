"""Jobs and groups: what shares a batch follows from the list alone."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlxdiff.batch.jobs import grouped, jobs_of
from mlxdiff.batch.naming import parse_output
from mlxdiff.batch.prompts import Entry
from mlxdiff.errors import RequestError
from mlxdiff.request import Request

PATTERN = parse_output("out/", several=True)


def resolve(request: Request) -> Request:
    if request.steps == 13:
        raise RequestError("13 is unlucky.", "Take 12.")
    return replace(request, seed=0 if request.seed is None else request.seed)


def jobs(*requests: Request):
    entries = [Entry(request, None, f"line {i}") for i, request in enumerate(requests, 1)]
    return [job for job in jobs_of(entries, resolve, PATTERN) if job is not None]


def test_each_image_is_a_job_with_its_own_index_seed_and_path():
    found = jobs(Request("a", seed=3, n_images=2), Request("b", seed=9))
    assert [(job.index, job.request.prompt, job.request.seed) for job in found] == [
        (0, "a", 3),
        (1, "a", 4),
        (2, "b", 9),
    ]
    assert len({job.id for job in found}) == len({job.path for job in found}) == 3
    assert all(job.path.parent == Path("out") for job in found)


def test_id_is_of_the_request_and_the_name():
    (here,) = jobs(Request("a", seed=3))
    assert here.id == jobs(Request("a", seed=3))[0].id
    assert here.id != jobs(Request("a", seed=3, steps=5))[0].id
    moved = parse_output("elsewhere/", several=True)
    assert next(iter(jobs_of([Entry(here.request, None, "x")], resolve, moved))).id == here.id


def test_error_names_the_line():
    with pytest.raises(RequestError, match=r"^line 2: 13 is unlucky\. Take 12\."):
        jobs(Request("a"), Request("b", steps=13))


def test_requests_that_differ_in_more_than_prompt_and_seed_share_no_group():
    found = list(grouped(jobs(*(Request("p", seed=i, steps=10 + i % 2) for i in range(6))), 2))
    assert [[job.index for job in group.jobs] for group in found if group] == [[0, 2], [1, 3], [4], [5]]
    assert found[0].request.steps == 10
    assert found[0].request.seeds == (0, 2)


@given(st.lists(st.integers(1, 3), max_size=30), st.integers(1, 5))
def test_groups_hold_every_job_once_and_are_full_but_for_the_last_of_a_kind(steps, size):
    found = [g for g in grouped(jobs(*(Request("p", seed=i, steps=s) for i, s in enumerate(steps))), size) if g]
    assert sorted(job.index for group in found for job in group.jobs) == list(range(len(steps)))
    assert [group.number for group in found] == list(range(len(found)))
    for kind in set(steps):
        sizes = [len(group.jobs) for group in found if group.request.steps == kind]
        assert all(n == size for n in sizes[:-1])


@given(st.integers(0, 20), st.integers(0, 10), st.integers(1, 5))
def test_more_lines_change_no_full_group(n, more, size):
    requests = [Request("p", seed=i) for i in range(n + more)]
    before = [group.id for group in grouped(jobs(*requests[:n]), size) if group]
    after = [group.id for group in grouped(jobs(*requests), size) if group]
    full = n // size
    assert before[:full] == after[:full]


def test_a_pause_flushes_what_has_come():
    a, b, c = jobs(*(Request("p", seed=i) for i in range(3)))
    found = list(grouped([a, None, b, c, None], 2))
    assert [None if group is None else [job.index for job in group.jobs] for group in found] == [
        [0],
        None,
        [1, 2],
        None,
    ]
