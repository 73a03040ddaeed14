"""Prompt files that people have: A1111's lines with options, and tables."""

from __future__ import annotations

import warnings

import pytest

from mlxdiff.batch.jobs import by_model, grouped, jobs_of
from mlxdiff.batch.named_options import find
from mlxdiff.batch.naming import parse_output
from mlxdiff.batch.prompts import read_entries
from mlxdiff.batch.wildcard_files import WildcardFiles
from mlxdiff.batch.wildcards import Wildcards
from mlxdiff.errors import MlxdiffWarning, RequestError
from mlxdiff.request import Request, Size

BASE = Request(seed=7, steps=4)


def entry(line: str, name: str = "p.txt"):
    (found,) = read_entries(line.splitlines(keepends=True), name, BASE)
    return found


def given(line: str) -> dict:
    """What a line says beside what it inherits."""
    values = entry(line).request.values()
    return {name: value for name, value in values.items() if BASE.values().get(name, ...) != value}


# The first five are the form of A1111's own script, which shlex takes apart; the others begin with the prompt.
LINES = {
    '--prompt "a cat" --steps 20 --cfg_scale 6': {"prompt": "a cat", "steps": 20, "guidance_scale": 6},
    "--prompt a fat cat --negative_prompt blurry, dark --width 64": {
        "prompt": "a fat cat",
        "negative_prompt": "blurry, dark",
        "width": 64,
    },
    "--prompt 'a cat' \"and a dog\"": {"prompt": 'a cat "and a dog"'},
    '--prompt "a \\"big\\" cat" --negative_prompt "--- --steps"': {
        "prompt": 'a "big" cat',
        "negative_prompt": "--- --steps",
    },
    '--sampler_name "DPM++ 2M" --seed 5 --subseed 9 --subseed_strength 0.2 --prompt "a"': {
        "prompt": "a",
        "sampler": "dpmpp_2m",
        "seed": 5,
        "variation_seed": 9,
        "variation_strength": 0.2,
    },
    'a cat --steps 20 --cfg_scale 6 --negative_prompt "blurry"': {
        "prompt": "a cat",
        "steps": 20,
        "guidance_scale": 6,
        "negative_prompt": "blurry",
    },
    "it's a cat, (red:1.2) --sampler_name DPM++ 2M Karras": {
        "prompt": "it's a cat, (red:1.2)",
        "sampler": "dpmpp_2m",
        "schedule": "karras",
    },
    '"a cat" --cfg 3': {"prompt": "a cat", "guidance_scale": 3},
    "a cat --guidance-scale=3 --variation-seed=4": {"prompt": "a cat", "guidance_scale": 3, "variation_seed": 4},
    "a cat --batch_size 2 --n_iter 3": {"prompt": "a cat", "n_images": 6},
    "a cat --seed -1 --subseed -1 --scheduler Automatic": {"prompt": "a cat"},
    "a cat --scheduler Karras --clip_skip 2": {"prompt": "a cat", "schedule": "karras", "clip_skip": 2},
    "a cat --CLIP_stop_at_last_layers 2 --sampler_index Euler": {
        "prompt": "a cat",
        "clip_skip": 2,
        "sampler": "euler",
    },
    "a cat --seed_resize_from_w 64 --seed_resize_from_h 32": {"prompt": "a cat", "seed_resize": "64x32"},
    "a cat --seed_resize_from_w 0 --seed_resize_from_h 0": {"prompt": "a cat"},
    "a cat --image in.png --denoising_strength 0.5": {"prompt": "a cat", "image": "in.png", "strength": 0.5},
    "a cat --lora a.safetensors,scale=0.5 --lora b.safetensors": {
        "prompt": "a cat",
        "lora": [{"ref": "a.safetensors", "scale": 0.5}, {"ref": "b.safetensors", "scale": 1.0}],
    },
    "a cat --do_not_save_grid true --tiling false --restore_faces False --styles None --prompt_for_display x": {
        "prompt": "a cat"
    },
}


@pytest.mark.parametrize("line", LINES)
def test_a_line_with_options(line):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert given(line) == LINES[line]


@pytest.mark.parametrize(
    "line", ["a cat -- a dog", "a--b", "x --1 y", "--", "---", "a cat -n b", "-steps 20", "a --- b"]
)
def test_text_without_an_option_stays_as_it_is(line):
    assert given(line) == {"prompt": line}


def test_an_output_and_a_model_of_its_own():
    found = entry("a cat --output cats/a.png --sd_model other --seed 3")
    assert (found.output, found.request.model, found.counted_from) == ("cats/a.png", "other", None)
    assert entry("a cat --seed -1").counted_from == 7


BAD = {
    "a cat --stps 3": "there is no option --stps. Did you mean --steps?",
    "a cat --ar 16:9": 'no option --ar. docs/settings.md has the names. If the line is a prompt, write {"prompt"',
    "a cat --steps": "--steps has no value.",
    "a cat --steps --width 64": "--steps has no value.",
    "a cat --steps x": "steps is 'x'. It is a whole number",
    "a cat --steps 3 dogs": "steps is '3 dogs'.",
    'a cat --steps "3" dogs': "behind --steps stands 'dogs' after its value.",
    "a cat --steps 3 --steps 4": "--steps is there twice.",
    "a cat --cfg 3 --cfg_scale 4": "--cfg_scale says guidance_scale again.",
    "a cat --prompt dog": "there are two prompts",
    '--prompt "a cat': "the quotation mark behind --prompt is not closed.",
    "a cat --sampler_index 3": "a place in A1111's list",
    "a cat --sampler_name Eulr": "There is no sampler 'Eulr'.",
    "a cat --seed_resize_from_w 64": "seed_resize_from_w stands alone.",
    "a cat --batch_size 1000 --n_iter 1000": "batch_size * n_iter is 1000000.",
    "a cat --n_images 2 --batch_size 2": "n_images is there beside",
    "a cat --width 9999999999": "width is",
    "a cat --" + "x" * 5000 + " 1": "there is no option --xxx",
    "a cat --output ../x.png": "which leaves the folder",
}


@pytest.mark.parametrize("line", BAD)
def test_a_bad_option_is_one_sentence_with_its_line(line):
    with pytest.raises(RequestError) as caught:
        list(read_entries(["good\n", line], "p.txt", BASE))
    assert str(caught.value).startswith("p.txt, line 2: ")
    assert BAD[line] in str(caught.value)
    assert len(str(caught.value)) < 900


@pytest.mark.parametrize("option", ["--tiling true", "--outpath_samples out", "--styles Anime", "--restore_faces true"])
def test_what_a1111_does_and_mlxdiff_does_not_is_said(option):
    with pytest.warns(MlxdiffWarning, match=rf"p\.txt, line 1: {option.split()[0]} '\w+' is not used\."):
        assert given(f"a cat {option}") == {"prompt": "a cat"}


def test_names_of_settings_in_every_spelling():
    for name in ("cfg_scale", "CFG scale", "cfg", "guidance-scale", "guidance_scale", "Guidance Scale"):
        item = find(name)
        assert item is not None
        assert item.name == "guidance_scale"
    assert find("Variation seed strength").name == "variation_strength"  # type: ignore[union-attr]
    assert find("hashes") is None


def rows(text: str, name: str = "t.csv", base: Request = BASE, wildcards: Wildcards | None = None):
    return list(read_entries(text.encode().splitlines(keepends=True), name, base, wildcards))


def test_a_table_as_a_spreadsheet_saves_it():
    text = (
        "\ufeffprompt,steps,CFG scale,Negative prompt,Sampler,output,lora,lora,\r\n"
        '"a red apple, on a ""table""",20,7,,DPM++ 2M Karras,,a.safetensors,"b.safetensors,scale=0.5",\r\n'
        ",,,,,,,,\r\n"
        '"two\nlines",,,"dark, blurry",,pears/p.png,,,\r\n'
        "# no comment,,,,,,,,\r\n"
    )
    first, second, third = rows(text)
    assert first.request.prompt == 'a red apple, on a "table"'
    assert (first.request.steps, first.request.guidance_scale) == (20, 7)
    assert (first.request.sampler, first.request.schedule) == ("dpmpp_2m", "karras")
    assert [lora.ref for lora in first.request.lora or ()] == ["a.safetensors", "b.safetensors"]
    assert (second.request.prompt, second.request.steps, second.output) == ("two\nlines", 4, "pears/p.png")
    assert second.request.negative_prompt == "dark, blurry"
    assert third.request.prompt == "# no comment"
    assert [one.source for one in (first, second, third)] == ["t.csv, line 2", "t.csv, line 4", "t.csv, line 6"]
    assert [one.request.seed for one in (first, second, third)] == [7, 8, 9]


def test_a_table_with_tabs_and_files_of_its_own():
    header = "prompt\timage\tmask\tcontrol\tmodel\tseed_resize"
    (found,) = rows(f"{header}\na, b --steps 3\tin.png\tm.png\tcanny=e.png,end=0.5\tm\t64x32\n", "T.TSV")
    request = found.request
    assert (request.prompt, request.image, request.mask, request.model) == ("a, b --steps 3", "in.png", "m.png", "m")
    assert request.control is not None
    assert (request.control[0].ref, request.control[0].image, request.control[0].end) == ("canny", "e.png", 0.5)
    assert request.seed_resize == Size(32, 64)


BAD_TABLES = {
    "prompt,stps\na,3\n": "t.csv, line 1: column 2 is named 'stps', which is no setting. Did you mean steps?",
    "prompt,\na,3\n": "t.csv, line 2: it has 2 cells for 1 columns.",
    "prompt,,steps\na,3,4\n": "t.csv, line 1: column 2 is named ''",
    "prompt,cfg,CFG scale\na,3,3\n": "t.csv, line 1: two columns say guidance_scale.",
    "prompt;steps\na;3\n": "t.csv, line 1: the cells are separated by semicolons, not by commas.",
    "prompt,steps\ngood,3\nbad,x\n": "t.csv, line 3: column steps: steps is 'x'.",
    "prompt,sampler\ngood,Euler\nbad,Eulr\n": "t.csv, line 3: column sampler: There is no sampler 'Eulr'.",
    "prompt,steps\na, b,3\n": "t.csv, line 2: it has 3 cells for 2 columns.",
    'prompt,steps\n"a,3\nb,4\n': "t.csv, line 2: its cells cannot be told apart",
    'prompt,steps\n"a"b,3\n': "t.csv, line 2: its cells cannot be told apart",
    "steps\n3\n": "t.csv, line 2: there is no prompt.",
    "prompt\na\0b\n": "t.csv, line 2: it has the character U+0000",
    "prompt\n" + "x" * 70_000: "t.csv, line 2: it is longer than",
}


@pytest.mark.parametrize("text", BAD_TABLES)
def test_a_bad_table_names_the_line_and_the_column(text):
    with pytest.raises(RequestError) as caught:
        rows(text)
    assert str(caught.value).startswith(BAD_TABLES[text])


def test_bytes_that_are_not_utf8_in_a_table():
    found = read_entries([b"prompt\n", b"good\n", b"caf\xe9\n"], "t.csv", BASE)
    assert next(found).request.prompt == "good"
    with pytest.raises(RequestError, match=r"t\.csv, line 3: byte 4 is not UTF-8"):
        next(found)
    assert list(found) == []


def test_a_table_of_templates(tmp_path):
    (tmp_path / "c.txt").write_text("red\n")
    wildcards = Wildcards(WildcardFiles(tmp_path), every=True)
    found = rows("prompt\n{a|b} __c__\nplain\n", wildcards=wildcards)
    assert [one.request.prompt for one in found] == [("a red", "b red"), "plain"]
    assert [one.request.seeds for one in found] == [(7, 8), (9,)]


def test_a_line_may_begin_with_a_choice_where_these_are_drawn(tmp_path):
    wildcards = Wildcards(WildcardFiles(tmp_path))
    lines = ["{red|green} a", '{"prompt": "{x|y}"}', "plain"]
    found = list(read_entries(lines, "p.txt", BASE, wildcards))
    assert [one.request.prompt for one in found] == ["{red|green} a", "{x|y}", "plain"]
    assert [one.wildcards is None for one in found] == [False, False, True]
    with pytest.raises(RequestError, match="it is not JSON"):
        list(read_entries(["{'prompt': 'a'}"], "p.txt", BASE, wildcards))
    with pytest.raises(RequestError, match="or needs --wildcards"):
        list(read_entries(lines, "p.txt", BASE))


def test_braces_that_are_text_are_said_once():
    with pytest.warns(MlxdiffWarning) as said:
        found = list(read_entries(["a {b|c}", "a __d__"], "p.txt", BASE))
    assert [one.request.prompt for one in found] == ["a {b|c}", "a __d__"]
    assert [str(one.message) for one in said] == ["p.txt, line 1: {b|c} is text without --wildcards."]


def test_rows_with_models_of_their_own_are_ordered_so_that_each_is_loaded_once():
    found = rows("prompt,model,image\na,one,\nb,two,x.png\nc,one,\nd,,\n", base=Request(seed=1, model="two"))
    jobs = [job for job in jobs_of(found, lambda request: request, parse_output("out/", several=True)) if job]  # type: ignore
    batches = list(by_model(grouped(jobs, 2)))
    assert [[job.path.name for job in batch.jobs] for batch in batches] == [
        ["00000-a-1.png", "00002-c-3.png"],
        ["00001-b-2.png"],
        ["00003-d-4.png"],
    ]
    assert [batch.model.reference for batch in batches] == ["one", "two", "two"]
