"""Prompt files: what a line may say, what it inherits, and that a bad one is named."""

from __future__ import annotations

import json
import os
import sys
import threading
from dataclasses import replace
from itertools import islice

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from patience import WAIT

from mlxdiff.batch.prompts import FIELDS, MAX_LINE, SETTINGS, open_prompts, read_entries, source_name
from mlxdiff.errors import InputError, RequestError
from mlxdiff.request import MAX_SEED, Request
from mlxdiff.request.declarations import declared

BASE = Request(seed=7, steps=4, guidance_scale=2.0)


def entries(*lines, base=BASE):
    return list(read_entries(lines, "p.txt", base))


def problem(line, base=BASE) -> str:
    """What is said of a bad line that stands after a comment and a good one; the good one is there first."""
    found = read_entries(["# c\n", "good\n", line], "p.txt", base)
    assert next(found).request.prompt == "good"
    with pytest.raises(RequestError) as caught:
        next(found)
    assert str(caught.value).startswith("p.txt, line 3: ")
    assert caught.value.remedy.endswith(".")
    return caught.value.problem.removeprefix("p.txt, line 3: ")


def test_text_with_comments_blanks_and_windows_line_ends():
    found = entries(
        b"\xef\xbb\xbf# title\r\n", b"\r\n", b"  a red apple \r\n", b"   # no\n", b"#\n", "pâté, 茶\n".encode()
    )
    assert [(entry.request.prompt, entry.source) for entry in found] == [
        ("a red apple", "p.txt, line 3"),
        ("pâté, 茶", "p.txt, line 6"),
    ]
    assert all(entry.output is None for entry in found)


def test_a_byte_order_mark_is_no_part_of_the_first_prompt():
    assert entries(b"\xef\xbb\xbfa\n")[0].request.prompt == "a"
    assert entries(b'\xef\xbb\xbf{"prompt": "b"}\n')[0].request.prompt == "b"


def test_other_separators_of_unicode_do_not_end_a_line(tmp_path):
    path = tmp_path / "p.txt"
    path.write_bytes("a\u2028b\x85c\x0bd\n".encode())
    assert [entry.request.prompt for entry in read_entries(open_prompts(str(path)), "p", BASE)] == [
        "a\u2028b\x85c\x0bd"
    ]


VALUES = {
    "prompt": "a",
    "negative_prompt": None,
    "seed": 0,
    "steps": 9,
    "guidance_scale": 0,
    "height": 64,
    "width": 96,
    "sampler": "heun",
    "schedule": "karras",
    "n_images": 2,
    "image": "in.png",
    "strength": 0.5,
    "rng": "philox",
    "guidance_start": 0.1,
    "guidance_end": 0.9,
    "cache_interval": 3,
    "token_merging": 0.25,
    "model": "other",
    "quantize": 4,
}


def test_the_fields_are_the_settings_and_a_place():
    assert set(FIELDS) == {item.name for item in declared(Request) if item.scope != "record"} | {"output"}
    assert set(FIELDS) >= set(VALUES)


def test_a_line_of_json_overrides_the_command_line_and_inherits_the_rest():
    base = Request(negative_prompt="worm", seed=3, steps=4, model="m", revision="r", dtype="fp32", quantize=8)
    (entry,) = entries(json.dumps(VALUES | {"output": "sub/a.png"}), base=base)
    assert entry.output == "sub/a.png"
    assert entry.request == Request(**VALUES, dtype="fp32"), "a revision belongs to its model"
    (plain,) = entries("a prompt", base=base)
    assert plain.request == replace(base, prompt="a prompt")


def test_only_a_seed_that_was_counted_says_from_where():
    found = entries("a", '{"prompt": "b", "seed": 8}', '{"prompt": "c", "seed": null}')
    assert [entry.counted_from for entry in found] == [7, None, 7]


def test_line_ends_of_old_macs_are_refused_and_not_one_prompt():
    with pytest.raises(RequestError, match="line 1: it has a carriage return inside"):
        entries(b"a cat\ra dog\r")
    assert len(entries(b'{"prompt":\r"a"}\r\n')) == 1  # JSON's blank


def test_a_bad_line_does_not_end_the_reading():
    found = read_entries(["a", "{", "b"], "p", BASE)
    assert next(found).request.prompt == "a"
    with pytest.raises(RequestError, match="p, line 2"):
        next(found)
    assert next(found).request.prompt == "b"
    with pytest.raises(StopIteration):
        next(found)


def test_text_and_json_may_stand_in_one_file():
    found = entries('a "quoted" [prompt]\n', ' {"prompt": "{b}"}\n', "c}\n")
    assert [entry.request.prompt for entry in found] == ['a "quoted" [prompt]', "{b}", "c}"]


def test_the_prompt_of_the_command_line_is_a_prompt_for_lines_without_one():
    assert entries('{"steps": 2}', base=Request(prompt="apple"))[0].request.prompt == "apple"
    assert entries('{"prompt": ""}', base=Request())[0].request.prompt == ""
    assert problem('{"steps": 2}') == "there is no prompt."


# -- seeds ------------------------------------------------------------------------------------------------------------


def seeds(*lines, base=BASE):
    return [entry.request.seeds for entry in entries(*lines, base=base)]


def test_every_image_of_the_file_has_its_own_seed():
    found = seeds("a", '{"prompt": "b", "n_images": 3}', '{"prompt": "c", "seed": 100, "n_images": 2}', "# d", "e")
    assert found == [(7,), (8, 9, 10), (100, 101), (13,)]


def test_images_of_the_command_line_count_too():
    assert seeds("a", '{"prompt": "b", "n_images": 1}', "c", base=Request(seed=0, n_images=2)) == [(0, 1), (2,), (3, 4)]


def test_null_is_no_seed_of_its_own_and_zero_is_one():
    assert seeds('{"prompt": "a", "seed": 0}', '{"prompt": "a", "seed": null}') == [(0,), (8,)]


def test_minus_one_is_counted_as_if_no_seed_were_there():
    found = entries("a cat", '{"prompt": "a dog", "seed": -1}', "a bee")
    assert [entry.request.seed for entry in found] == [7, 8, 9]
    assert found[1].counted_from == 7


def test_a_list_gives_each_image_its_seed():
    assert seeds('{"prompt": "a", "seed": [5, 3], "n_images": 2}', "b") == [(5, 3), (9,)]
    assert problem('{"prompt": "a", "seed": [5, 3]}') == "There are 2 seeds for 1 images."


def test_without_a_seed_there_is_none_yet():
    assert [entry.request.seed for entry in entries("a", '{"prompt": "b", "seed": 4}', base=Request())] == [None, 4]


@given(st.lists(st.integers(1, 5), max_size=8), st.integers(0, 8))
def test_lines_added_at_the_end_change_nothing_before(counts, kept):
    lines = [json.dumps({"prompt": f"p{i}", "n_images": count}) for i, count in enumerate(counts)]
    everything = entries(*lines)
    assert entries(*lines[:kept]) == everything[:kept]
    drawn = [seed for entry in everything for seed in entry.request.seeds]
    assert drawn == list(range(7, 7 + sum(counts)))


def test_seeds_that_run_out():
    base = Request(seed=MAX_SEED)
    found = read_entries(["a", "b"], "p", base)
    assert next(found).request.seed == MAX_SEED
    with pytest.raises(RequestError, match="p, line 2: seed is"):
        next(found)


# -- bad lines --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ('{"prompt": "a", "steps": -1}', "steps is -1."),
        ('{"prompt": "a", "steps": true}', "steps is True."),
        ('{"prompt": "a", "steps": 2.5}', "steps is 2.5."),
        ('{"prompt": "a", "steps": "many"}', "steps is 'many'."),
        ('{"prompt": "a", "seed": -2}', "seed is -2."),
        ('{"prompt": "a", "seed": 1.0}', "seed is 1.0."),
        ('{"prompt": 3}', "prompt is int, not text."),
        ('{"prompt": null}', "prompt is NoneType, not text."),
        ('{"prompt": []}', "The list of prompts is empty."),
        ('{"prompt": ["a", 1]}', "prompt is int, not text."),
        ('{"prompt": {"a": 1}}', "prompt is dict, not text."),
        ('{"prompt": "a", "sampler": "best"}', "There is no sampler 'best'."),
        ('{"prompt": "a", "sampler": ["ddim"]}', "There is no sampler ['ddim']."),
        ('{"prompt": "a", "n_images": null}', "n_images cannot be null."),
        ('{"prompt": "a", "hashes": {}}', "there is no field 'hashes'."),
        ('{"prompt": "a", "image": 3}', "image is int, not text."),
        ('{"prompt": "a", "output": 3}', "output is int, not text."),
        ('{"prompt": "a", "output": ""}', "output is ''."),
        ('{"prompt": "a", "output": "../a.png"}', "output is '../a.png', which leaves the folder of --output."),
        ('{"prompt": "a", "output": "a.gif"}', "a.gif would be a picture of the format '.gif'."),
        ('{"prompt": "a", "output": "{x}.png"}', "The output has a field {x}, which there is not."),
        ('{"prompt": "a", "step": 3}', "there is no field 'step'."),
        ('{"prompt": "a", "model": 3}', "model is int, not text."),
        ('{"prompt": "a", "quantize": 5}', "quantize is 5."),
        ('{"prompt": "a", "steps": 3, "steps": 4}', "'steps' is there twice."),
        ('{"prompt": "a", "guidance_scale": NaN}', "NaN is no number in JSON."),
        ('{"prompt": "a", "guidance_scale": -Infinity}', "-Infinity is no number in JSON."),
        ('{"prompt": "a", "guidance_scale": 1e999}', "guidance_scale is inf."),
        ('{"prompt": "a", "guidance_scale": 1' + "0" * 400 + "}", "a number has 401 digits."),
        ('{"prompt": "a", "seed": ' + "9" * 5000 + "}", "a number has 5000 digits."),
        ('{"prompt": "a"', "it is not JSON (Expecting ',' delimiter, column 15)."),
        ('{"prompt": "a"} x', "it is not JSON (Extra data, column 17)."),
        ("{red|blue} apple", "it is not JSON (Expecting property name enclosed in double quotes, column 2)."),
        ('{"a":' * 10_000, "it is nested too deeply."),
        ('{"prompt": "\\ud800"}', "prompt has the character U+D800, which is not text."),
        ('{"prompt": "a\\u0000b"}', "prompt has the character U+0000, which is not text."),
        ("a\0b", "it has the character U+0000, which is not text."),
        (b"caf\xe9\n", "byte 4 is not UTF-8."),
        ("a apple".encode("utf-16"), "byte 1 is not UTF-8."),
        ("a" * (MAX_LINE + 1), f"it is longer than {MAX_LINE} bytes."),
        (b"\xc3\xa9" * MAX_LINE, f"it is longer than {MAX_LINE} bytes."),
    ],
    ids=lambda value: str(value)[:30],
)
def test_a_bad_line_says_where_and_why(line, said):
    assert problem(line) == said


def test_the_remedy_is_the_requests_own():
    with pytest.raises(RequestError) as caught:
        entries('{"prompt": "a", "steps": -1}')
    assert str(caught.value) == "p.txt, line 1: steps is -1. It is a whole number from 1 to 1000."


def test_what_is_quoted_in_an_error_is_short_and_cannot_drive_a_terminal():
    said = problem(json.dumps({"prompt": "a", "sampler": "\x1b[31m" + "x" * 10_000}))
    assert len(said) < 400
    assert "\x1b" not in said


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=5,
)


@settings(max_examples=200)
@given(st.dictionaries(st.sampled_from([*FIELDS, "model", "x"]), json_values, max_size=6))
def test_any_object_is_an_entry_or_an_error(values):
    try:
        (entry,) = entries(json.dumps(values))
    except RequestError:
        return
    for name in set(values) - {"output", "seed"}:
        kind, value = SETTINGS[name].kind, values[name]
        assert getattr(entry.request, name) == (None if value is None else kind.check(name, value))
    assert entry.output == values.get("output")


@settings(max_examples=200)
@given(st.binary(max_size=60))
def test_any_bytes_are_entries_or_an_error(data):
    try:
        found = entries(*data.splitlines(keepends=True))
    except RequestError:
        return
    for entry in found:
        assert entry.request.prompt.strip() == entry.request.prompt != ""


# -- files ------------------------------------------------------------------------------------------------------------


def test_a_file_line_by_line(tmp_path):
    path = tmp_path / "p.txt"
    path.write_bytes(b"a\r\n\nb")
    assert list(open_prompts(str(path))) == [b"a\r\n", b"\n", b"b"]


def test_the_longest_line_is_read_and_one_byte_more_is_not(tmp_path):
    path = tmp_path / "p.txt"
    path.write_bytes(b"a" * MAX_LINE + b"\r\nb\n")
    prompts = [entry.request.prompt for entry in read_entries(open_prompts(str(path)), "p", BASE)]
    assert prompts == ["a" * MAX_LINE, "b"]
    path.write_bytes(b"a" * MAX_LINE + b"a\r\n")
    with pytest.raises(RequestError, match="p, line 1: it is longer"):
        list(read_entries(open_prompts(str(path)), "p", BASE))


@pytest.mark.parametrize("length", [MAX_LINE + 1, MAX_LINE + 2, 2 * MAX_LINE + 6, 300_000])
def test_the_rest_of_a_line_that_is_too_long_is_no_line(tmp_path, length):
    path = tmp_path / "p.txt"
    path.write_bytes(b"a" * length + b"\nb\n" + b"c" * length)
    assert [line.strip()[:1] for line in open_prompts(str(path))] == [b"a", b"b", b"c"]
    entries = read_entries(open_prompts(str(path)), "p", BASE)
    with pytest.raises(RequestError, match="p, line 1: it is longer"):
        next(entries)
    assert next(entries).source == "p, line 2"
    with pytest.raises(RequestError, match="p, line 3: it is longer"):
        next(entries)


def test_a_line_without_end_is_not_read_into_memory():
    if not os.path.exists("/dev/zero"):
        pytest.skip("needs /dev/zero")
    entries = read_entries(open_prompts("/dev/zero"), "/dev/zero", BASE)
    with pytest.raises(RequestError, match="longer than"):
        next(entries)
    with pytest.raises(InputError, match="no line end in"):
        next(entries)


@pytest.mark.parametrize("name", ["missing.txt", "", "a\0b", "file/below"])
def test_what_is_no_file(tmp_path, name):
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError):
        open_prompts(str(tmp_path / name))


def test_a_file_without_permission(tmp_path):
    path = tmp_path / "p.txt"
    path.write_text("a")
    path.chmod(0)
    if os.access(path, os.R_OK):
        pytest.skip("this user may read everything")
    with pytest.raises(InputError, match="no permission"):
        open_prompts(str(path))


def test_standard_input_is_a_stream(monkeypatch):
    """Each line comes out before the next is written: the writer waits for it."""
    read, write = os.pipe()
    taken = threading.Semaphore(0)

    def writer():
        with open(write, "wb", buffering=0) as pipe:
            for line in (b"a\n", b'{"prompt": "b"}\n', b"c"):
                pipe.write(line)
                if not taken.acquire(timeout=WAIT):
                    return

    thread = threading.Thread(target=writer)
    with open(read) as stdin:
        monkeypatch.setattr(sys, "stdin", stdin)
        thread.start()
        found = read_entries(open_prompts("-"), source_name("-"), BASE)
        for line, prompt in enumerate("ab", 1):
            entry = next(found)
            assert (entry.request.prompt, entry.source) == (prompt, f"standard input, line {line}")
            assert thread.is_alive()
            taken.release()
        taken.release()
        assert [entry.request.prompt for entry in islice(found, 5)] == ["c"]
        assert not stdin.closed
    thread.join()


def test_a_stream_that_breaks():
    class Broken:
        def readline(self, _size):
            raise OSError(5, "Input/output error")

    class Stdin:
        buffer = Broken()

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "stdin", Stdin())
        with pytest.raises(InputError, match="standard input cannot be read on"):
            list(open_prompts("-"))
        patch.setattr(sys, "stdin", None)
        with pytest.raises(InputError, match="no standard input"):
            open_prompts("-")
