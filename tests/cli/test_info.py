"""`mlxdiff info`: of files and models, any number of them, and of what there is to choose from."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path

import ldm_layout
import numpy as np
import pytest
from typer.testing import CliRunner

from mlxdiff.checkpoint import single_file
from mlxdiff.cli import info
from mlxdiff.cli.app import app, main
from mlxdiff.cli.declared import settings_of
from mlxdiff.images import write_picture
from mlxdiff.metadata import picture_text
from mlxdiff.metadata.sheets import sheet_text, sweep_text
from mlxdiff.request import SAMPLERS, Request


@pytest.fixture
def sd1(tmp_path):
    """The few keys that tell what a file is; `info` reads no weight."""
    keys = {
        single_file.FIRST_CONV: (320, 4, 3, 3),
        "first_stage_model.decoder.conv_in.weight": (512, 4, 3, 3),
        "cond_stage_model.transformer.text_model.final_layer_norm.weight": (768,),
    }
    return ldm_layout.write_sparse(tmp_path / "model.safetensors", keys)


def test_a_checkpoint_in_one_file_is_described_as_a_model(sd1):
    result = CliRunner().invoke(app, ["info", str(sd1), "--json"])
    assert result.exit_code == 0
    said = json.loads(result.stdout)
    assert (said["model"], said["family"], said["size"]) == (str(sd1), "sd", "512x512")
    assert said["prediction_type"] == "epsilon"


def run(arguments, capsys) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as end:
        main(arguments)
    return (end.value.code, *capsys.readouterr())


@pytest.fixture
def here(tmp_path, monkeypatch):
    """a.png, b.png with what made them, and c.txt of A1111's parameters."""
    monkeypatch.chdir(tmp_path)
    for name, seed in (("a.png", 1), ("b.png", 2)):
        request = Request(
            prompt="a cat", seed=seed, steps=3, guidance_scale=4, height=8, width=8, sampler="ddim", model="emoji"
        )
        write_picture(tmp_path / name, np.zeros((8, 8, 3), np.uint8), picture_text(request))
    (tmp_path / "c.txt").write_text("a dog\nNegative prompt: blurry\nSteps: 9, Sampler: Euler, Seed: 3, Size: 64x64")
    return tmp_path


def test_structured_settings_are_shown_as_they_are_typed(tmp_path, capsys):
    control = "edges=dog.png,scale=0.5,preprocess=canny"
    request = Request("a", lora=("style,scale=0.5", "ink"), control=(control,))
    (tmp_path / "a.json").write_text(request.to_json())
    _, out, _ = run(["info", str(tmp_path / "a.json")], capsys)
    shown = dict(line.split(maxsplit=1) for line in out.splitlines() if line.startswith("  "))
    assert shown["lora"] == "style,scale=0.5 ink"
    assert shown["control"] == control


@pytest.mark.usefixtures("here")
def test_many_files_are_one_object_a_line(capsys):
    code, out, err = run(["info", "a.png", "b.png", "c.txt", "--json"], capsys)
    assert (code, err) == (0, "")
    lines = [json.loads(line) for line in out.splitlines()]
    assert [(line["file"], line["request"]["seed"]) for line in lines] == [("a.png", 1), ("b.png", 2), ("c.txt", 3)]
    assert (lines[2]["request"]["prompt"], lines[2]["request"]["negative_prompt"]) == ("a dog", "blurry")


@pytest.mark.usefixtures("here")
def test_what_is_wrong_with_one_does_not_hide_the_others(capsys):
    code, out, err = run(["info", "a.png", "nosuch.png", "c.txt", "--json"], capsys)
    assert code == 1
    assert [json.loads(line)["file"] for line in out.splitlines()] == ["a.png", "c.txt"]
    assert err == "error: There is no file nosuch.png. Check its name and folder.\n"
    code, out, _ = run(["info", "a.png", "b.png"], capsys)
    assert (code, out.count("file              ")) == (0, 2)


@pytest.mark.usefixtures("here")
def test_nothing_of_python_is_shown(capsys):
    models = [
        {"model": "acme/thing", "revision": "0" * 40, "refs": ["main"], "bytes": 32471059, "last_used": None}
        | {"complete": False, "path": "/x"}
    ]
    info.tell({"models": models, "none": None, "flag": True, "of": [{"a": 1, "b": [2, 3]}], "empty": []}, json=False)
    text = capsys.readouterr().out
    assert "acme/thing  32.5 MB, main, not complete" in text
    assert not set("[]{}'") & set(text)
    assert not {"None", "True", "False"} & set(text.split())
    _, text, _ = run(["info"], capsys)
    assert not set("[]{}'") & set(text)


def test_a_long_path_is_whole_when_it_is_piped(tmp_path, monkeypatch, capsys, here):
    monkeypatch.setenv("COLUMNS", "40")
    folder = tmp_path / ("f" * 100) / ("g" * 100)
    folder.mkdir(parents=True)
    (here / "a.png").rename(folder / "a.png")
    _, out, _ = run(["info", str(folder / "a.png")], capsys)
    assert str(folder / "a.png") in out


def test_hostile_texts_in_a_file_reach_no_terminal(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    hostile = "a\x1b[31mred\u202egnp\x9b2J"
    write_picture(tmp_path / "a.png", np.zeros((8, 8, 3), np.uint8), {"mlxdiff": json.dumps({"prompt": hostile})})
    for arguments in (["info", "a.png"], ["info", "a.png", "--json"]):
        _, out, err = run(arguments, capsys)
        assert "red" in out
        assert not set("\x1b\u202e\x9b") & set(out + err)


def test_settings_and_samplers_are_listed(capsys):
    _, out, _ = run(["info", "--settings", "--json"], capsys)
    rows = [json.loads(line) for line in out.splitlines()]
    assert sorted(row["name"] for row in rows) == sorted(item.name for item in settings_of())
    assert {row["name"]: row for row in rows}["steps"]["high"] == 1000
    _, out, _ = run(["info", "--settings"], capsys)
    assert all(item.option in out and item.help in out for item in settings_of())
    _, out, _ = run(["info", "--samplers", "--json"], capsys)
    assert [json.loads(line)["name"] for line in out.splitlines()] == list(SAMPLERS)
    _, out, _ = run(["info", "--samplers"], capsys)
    assert set(SAMPLERS) <= set(out.split())


def test_another_programs_picture_says_what_of_it_is_read(tmp_path, capsys):
    text = "a cat\nSteps: 5, Sampler: Euler a, Seed: 3, Feature of 2031: on, Model: x, RNG: CPU"
    write_picture(tmp_path / "a.png", np.zeros((8, 8, 3), np.uint8), {"parameters": text})
    code, out, err = run(["info", str(tmp_path / "a.png"), "--json"], capsys)
    said = json.loads(out)
    assert (code, said["program"], said["parameters"]) == (0, "a1111", text)
    assert said["settings"] == {
        "compat": "a1111",
        "prompt_syntax": "a1111",
        "prompt": "a cat",
        "sampler": "euler_ancestral",
        "rng": "torch",
        "steps": 5,
        "seed": 3,
    }
    assert "Feature of 2031: on" in err


def test_a_sheet_says_what_it_is_and_what_makes_it_again(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    made = sweep_text(Request(prompt="a cat", seed=3, model="emoji"), ["steps=1,2"])
    for name, texts in (("sweep.jpg", made), ("sheet.png", sheet_text(["a.png", "b.png"]))):
        write_picture(tmp_path / name, np.zeros((8, 8, 3), np.uint8), texts)
    said = [json.loads(run(["info", name, "--json"], capsys)[1]) for name in ("sweep.jpg", "sheet.png")]
    assert [values["sheet"] for values in said] == ["a sweep of steps=1,2", "a contact sheet of 2 pictures"]
    assert "mlxdiff grid --vary steps=1,2 --prompt 'a cat'" in said[0]["again"]
    code, _, err = run(["generate", "--from", "sweep.jpg", "-o", "x.png"], capsys)
    assert code == 1
    assert "is a sweep of steps=1,2" in err


def test_latents_of_any_size_are_not_read(tmp_path, capsys):
    values = {"latents": {"dtype": "F32", "shape": [400, 512, 512, 4], "data_offsets": [0, 4 * 400 * 512 * 512 * 4]}}
    header = json.dumps(values).encode()
    with (tmp_path / "a.safetensors").open("wb") as stream:
        stream.write(len(header).to_bytes(8, "little") + header)
        stream.truncate(8 + len(header) + values["latents"]["data_offsets"][1])
    code, out, _ = run(["info", str(tmp_path / "a.safetensors"), "--json"], capsys)
    assert (code, json.loads(out)["shape"]) == (0, [400, 512, 512, 4])


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["a (red:1.3) apple"], ["chunk 1  ", "3 of 75 tokens", "a (red):1.3 apple"]),
        (["a [cat|dog] AND a hat :0.5"], ["part 2", "weight 0.5", "calls 1 to 2", "call 3", "a hat"]),
        (["a [cat:dog:0.5]", "--negative"], ["calls 1 to 13", "calls 14 to 25"]),
        (["a AND b", "--negative"], ["a and b"]),
        (["a cat " * 60, "--prompt-syntax", "plain"], ["75 of 75 tokens", "cut"]),
        (['("a cat", "a dog++").blend(0.3, 0.7)', "--prompt-syntax", "compel"], ["weight 0.3", "(dog):1.21"]),
    ],
)
def test_what_a_prompt_tells_a_model(capsys, arguments, said):
    code, out, err = run(["info", "--model", "emoji", "--prompt", *arguments], capsys)
    assert (code, err) == (0, "")
    for part in said:
        assert part in out
    code, out, _ = run(["info", "--model", "emoji", "--json", "--prompt", *arguments], capsys)
    values = json.loads(out)
    assert code == 0
    assert values["prompt"] == arguments[0]
    assert sum(len(chunk["tokens"]) for part in values["parts"] for e in part["entries"] for chunk in e["chunks"]) > 0


def test_the_loras_that_a_prompt_names_are_told(capsys):
    arguments = ["info", "--model", "emoji", "--prompt", "a cat <lora:pixel-art:0.5>"]
    code, out, err = run(arguments, capsys)
    assert (code, err) == (0, "")
    assert re.search(r"^LoRA +pixel-art,scale=0\.5$", out, re.MULTILINE)
    values = json.loads(run([*arguments, "--json"], capsys)[1])
    assert values["lora"] == ["pixel-art,scale=0.5"]
    assert values["prompt"].strip() == "a cat"


def test_a_lora_that_a_prompt_names_and_nobody_has_is_said(capsys):
    code, out, err = run(["info", "--model", "emoji", "--prompt", "a cat <lora:ink:0.5>"], capsys)
    assert code == 0
    assert "There is no LoRA for <lora:ink:0.5>" in err
    assert "ink" not in out


def test_options_of_a_prompt_need_one(capsys):
    code, _, err = run(["info", "--negative"], capsys)
    assert code == 2
    assert "there is none" in err
    code, _, err = run(["info", "a.png", "--prompt", "a"], capsys)
    assert code == 2
    assert "Give it alone" in err


def test_the_page_about_prompts_shows_what_info_says(capsys):
    page = (Path(__file__).parents[2] / "docs" / "prompts.md").read_text()
    examples = re.findall(r"^\$ mlxdiff (info .*)\n((?:.+\n)+?)```", page, re.MULTILINE)
    assert len(examples) >= 4
    for command, shown in examples:
        code, out, _ = run([*shlex.split(command), "--model", "emoji"], capsys)
        assert (code, out) == (0, shown)
