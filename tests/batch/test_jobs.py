"""Jobs and batches: what shares a batch follows from the list alone."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlxdiff.batch.essence import canonical, earlier
from mlxdiff.batch.jobs import JobMaker, by_model, grouped, jobs_of, listed
from mlxdiff.batch.journal import Done, hash_of
from mlxdiff.batch.naming import parse_output
from mlxdiff.batch.prompts import Entry, read_entries
from mlxdiff.batch.wildcard_files import WildcardFiles
from mlxdiff.batch.wildcards import Wildcards
from mlxdiff.errors import MlxdiffError, RequestError
from mlxdiff.request import Model, Request

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


def test_id_is_of_the_request_and_the_template():
    (job,) = jobs(Request("a", seed=3))
    assert job.id == jobs(Request("a", seed=3))[0].id
    assert job.id != jobs(Request("a", seed=3, steps=5))[0].id
    moved, renamed = (parse_output(text, several=True) for text in ("elsewhere/", "out/{seed}.png"))
    assert next(iter(jobs_of([Entry(job.request, None, "x")], resolve, moved))).id == job.id
    assert next(iter(jobs_of([Entry(job.request, None, "x")], resolve, renamed))).id != job.id


def test_id_does_not_know_what_changes_nothing_and_what_files_contain():
    (job,) = jobs(Request("a", seed=3))
    for request in (Request("a", seed=3, cache_interval=1), Request("a", seed=3, hashes={"x.png": "0" * 64})):
        assert jobs(request)[0].id == job.id
    assert jobs(Request("a", seed=3, hashes={"x.png": "0" * 64}))[0].inputs is not None
    assert job.inputs is None


def from_lines(*lines: str, seed: int = 7, output: str = "out/", done: dict[str, Done] | None = None):
    entries = read_entries(lines, "p", Request(seed=seed))
    known = {} if done is None else done
    found, wrong = listed(entries, resolve, parse_output(output, several=True), lambda identity, _: known.get(identity))
    assert not wrong
    return found


def recorded(found) -> dict[str, Done]:
    return {
        job.id: Done(
            job.id, job.path.relative_to("out").as_posix(), "0", seed=job.request.seed if job.counted else None
        )
        for job in found
    }


CATS = ['{"prompt": "cat", "n_images": 2}', '{"prompt": "cat", "steps": 5}', '{"prompt": "cat", "seed": 8}']


@given(st.lists(st.sampled_from(["cat", "dog", "cow", *CATS]), max_size=8), st.data())
def test_a_line_that_is_inserted_moves_no_other(lines, data):
    """What was rendered keeps its id, seed and name; only what was inserted is new."""
    before = from_lines(*lines)
    place = data.draw(st.integers(0, len(lines)))
    added = data.draw(st.sampled_from(["cat", "emu", '{"prompt": "cat", "steps": 6}']))
    after = from_lines(*lines[:place], added, *lines[place:], done=recorded(before))
    was = {job.id: (job.request.prompt, job.request.seed, job.path) for job in before}
    new = [job for job in after if job.id not in was]
    assert {job.id: (job.request.prompt, job.request.seed, job.path) for job in after if job.id in was} == was
    assert [job.request.prompt for job in new] == ["cat" if added.startswith("{") else added]
    assert len({job.path for job in after}) == len(after), "what is inserted gets a name of its own"


def test_another_seed_of_the_run_is_another_job():
    assert from_lines("cat")[0].id != from_lines("cat", seed=8)[0].id


def test_where_the_template_asks_for_the_index_it_is_part_of_the_id():
    before = from_lines("cat", "dog", output="out/{index}-{seed}.png")
    after = from_lines("emu", "cat", "dog", output="out/{index}-{seed}.png")
    assert not {job.id for job in before} & {job.id for job in after}


def test_a_recorded_path_outside_of_the_folder_is_not_followed():
    (job,) = from_lines("cat")
    for path in ("../x.png", "/etc/x.png"):
        again = from_lines("cat", done={job.id: Done(job.id, path, "0", seed=9)})
        assert again[0].path == job.path


def test_former_id_is_of_the_seed_and_the_name():
    (job,) = from_lines("cat")
    name = "00000-cat-7.png"
    assert job.former_id == hash_of('{"n_images":1,"prompt":"cat","seed":7}', name)


# Lines and the ids that journals have of them, from before numbers had one form: with 5 for 5.0.
TYPED = {
    '{"prompt": "cat", "guidance_scale": 5}': ["cfc3568a64c5f9c1069bb139179df7d8"],
    '{"prompt": "cat", "guidance_scale": 5, "strength": 1, "image": "x.png"}': ["a80385f11e5e46819d3b573075b50045"],
    '{"prompt": "dog", "lora": [{"ref": "x", "scale": 1}], "guidance_scale": 2.5, "seed": 3}': [
        "99f953923d382b42ccaf3b90a82ee246"
    ],
    '{"prompt": "dog", "sigmas": [14, 7, 0], "guidance_scale": 5, "pag_scale": 2, "hires_strength": 1}': [
        "09a4623501c1e1580da7c488b7ff448e"
    ],
    '{"prompt": "dog", "lora": [{"ref": "a", "scale": 1}, {"ref": "b", "scale": 2}, {"ref": "c", "scale": 3,'
    ' "blocks": {"MID": 1}}], "strength": 1.0}': ["2b7ddfe690536035accaff3a9b0ba913"],
    '{"prompt": "a {red|green} cat", "guidance_scale": 5, "n_images": 2}': [
        "c6a9edce8e55bf2add4f646e3ebc2458",
        "c4b582a3377c4926ffe15da450e8e22f",
    ],
}


@pytest.mark.parametrize("retyped", [False, True])
def test_what_a_journal_has_of_a_5_is_found_for_5_and_for_5_0(retyped, tmp_path):
    lines = [re.sub(r'(scale|strength)": ([0-9])([,}])', r'\1": \2.0\3', line) if retyped else line for line in TYPED]
    ids = [identity for of_line in TYPED.values() for identity in of_line]
    done = {identity: Done(identity, f"{i}.png", "0", seed=100 + i) for i, identity in enumerate(ids)}
    entries = read_entries(lines, "p", Request(seed=7), Wildcards(WildcardFiles(tmp_path)))
    found, wrong = listed(entries, resolve, PATTERN, lambda identity, former: done.get(identity, done.get(former)))
    assert not wrong
    assert [job.former_id for job in found] == ids
    assert not {job.id for job in found} & set(ids)
    assert [job.request.seed for job in found] == [100, 101, 3, 103, 104, 105, 106]
    assert [job.path.name for job in found[:5]] == [f"{i}.png" for i in range(5)]


def test_what_nobody_typed_is_a_float_in_journals_too():
    asked = {"guidance_scale": 5.0, "pag_scale": 2.0, "guidance_rescale": 1.0, "strength": 1.0, "eta": 0.5, "steps": 4}
    typed = {"guidance_scale": 5, "pag_scale": 2, "guidance_rescale": 1}
    assert canonical(asked | typed) in map(canonical, earlier(asked, typed))
    assert canonical(asked | typed) not in map(canonical, earlier(asked))
    assert list(earlier({"steps": 4, "eta": 0.5}, ("eta",))) == []


def test_5_and_5_0_are_one_job():
    one, other = (from_lines(f'{{"prompt": "cat", "guidance_scale": {number}}}') for number in ("5", "5.0"))
    assert one[0].id == other[0].id == from_lines("cat --cfg_scale 5")[0].id


def test_all_bad_lines_are_found_up_to_a_limit():
    lines = ["cat", '{"prompt": "x", "steps": -1}', '{"prompt": "y", "steps": 13}', "dog", *['{"a": 1}'] * 40]
    found, wrong = listed(read_entries(lines, "p", Request(seed=7)), resolve, PATTERN)
    assert [job.request.prompt for job in found] == ["cat", "dog"]
    assert len(wrong) == 21
    assert [str(error).partition(":")[0] for error in wrong[:3]] == ["p, line 2", "p, line 3", "p, line 5"]


def test_batches_are_ordered_so_that_each_model_comes_once():
    a, b = Model("a"), Model("b")
    found = jobs(*(Request(str(i), seed=i, model="ab"[i % 2]) for i in range(6)))
    assert {job.model for job in found} == {a, b}
    batches = list(by_model(grouped(found, 2)))
    assert [batch.model for batch in batches] == [a, a, b, b]
    assert [job.index for batch in batches for job in batch.jobs] == [0, 2, 4, 1, 3, 5]


def test_an_error_keeps_its_kind_and_names_its_line():
    def fails(_: Request):
        raise MlxdiffError("There is no model.", "Pull one.")

    with pytest.raises(MlxdiffError, match=r"^line 1: There is no model\. Pull one\.") as caught:
        JobMaker(fails, PATTERN).jobs(Entry(Request("a"), None, "line 1"))
    assert type(caught.value) is MlxdiffError


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
    before = [[job.id for job in batch.jobs] for batch in grouped(jobs(*requests[:n]), size) if batch]
    after = [[job.id for job in batch.jobs] for batch in grouped(jobs(*requests), size) if batch]
    full = n // size
    assert before[:full] == after[:full]


def test_an_error_comes_behind_what_came_before_it():
    def broken():
        yield from jobs(Request("a", seed=1), Request("b", seed=2, steps=5), Request("c", seed=3))
        raise RequestError("line 4 is bad.", "Correct it.")

    groups = grouped(broken(), 8)
    assert [[job.index for job in group.jobs] for group in (next(groups), next(groups)) if group] == [[0, 2], [1]]
    with pytest.raises(RequestError, match="line 4 is bad"):
        next(groups)


def test_a_pause_flushes_what_has_come():
    a, b, c = jobs(*(Request("p", seed=i) for i in range(3)))
    found = list(grouped([a, None, b, c, None], 2))
    assert [None if group is None else [job.index for job in group.jobs] for group in found] == [
        [0],
        None,
        [1, 2],
        None,
    ]
