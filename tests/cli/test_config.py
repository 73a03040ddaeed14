"""config.toml: defaults and profiles, who beats whom, and what is wrong with a file, in a sentence."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from mlxdiff.cli import config
from mlxdiff.cli.app import main
from mlxdiff.cli.declared import settings_of
from mlxdiff.errors import MlxdiffError
from mlxdiff.metadata import read_picture
from mlxdiff.request import Request

TINY = "height = 16\nwidth = 16\nsteps = 2\nseed = 5\n"


def run(arguments, capsys) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as end:
        main(arguments)
    return (end.value.code, *capsys.readouterr())


@pytest.fixture
def write(tmp_path, monkeypatch):
    """Writes the config file, and makes its folder the present one."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MLXDIFF_CONFIG", str(tmp_path / "config.toml"))
    return (tmp_path / "config.toml").write_text


def rendered(arguments: list[str], capsys) -> dict[str, object]:
    """The settings of the picture that the command renders."""
    code, out, err = run([*arguments, "--json", "--force"], capsys)
    assert code == 0, err
    return json.loads(out)["request"]


def test_options_beat_the_profile_which_beats_the_file(write, capsys):
    write(TINY + 'cfg = 3\nnegative-prompt = "blurry"\n[profile.fast]\nsteps = 1\nguidance_scale = 4\n')
    plain = rendered(["generate", "a cat", "-o", "a.png"], capsys)
    assert [plain[name] for name in ("steps", "width", "seed", "guidance_scale", "negative_prompt")] == [
        *(2, 16, 5, 3, "blurry")
    ]
    fast = rendered(["generate", "a cat", "-o", "b.png", "--profile", "fast"], capsys)
    assert (fast["steps"], fast["guidance_scale"], fast["seed"]) == (1, 4, 5)
    given = rendered(["generate", "a cat", "-o", "c.png", "--profile", "fast", "--steps", "3", "--cfg", "2"], capsys)
    assert (given["steps"], given["guidance_scale"], given["width"]) == (3, 2, 16)


def test_a_line_and_a_recipe_beat_both(write, capsys, tmp_path):
    write(TINY + "[profile.fast]\nguidance_scale = 4\n")
    first = rendered(["generate", "a cat", "-o", "a.png", "--profile", "fast"], capsys)
    (tmp_path / "prompts.txt").write_text('{"prompt": "a cat", "steps": 1, "guidance_scale": 2}\n')
    line = rendered(["generate", "--prompts-file", "prompts.txt", "-o", "out/", "--profile", "fast"], capsys)
    assert (line["steps"], line["guidance_scale"], line["width"]) == (1, 2, 16)
    write("steps = 1\nwidth = 32\nclip_skip = 2\n")
    again = rendered(["generate", "--from", "a.png", "-o", "b.png"], capsys)
    assert again == first
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()
    write(TINY + "[profile.fast]\nguidance_scale = 4\n")
    code, _, err = run(["generate", "--from", "a.png", "--profile", "fast"], capsys)
    assert (code, err.count("a profile would change nothing")) == (2, 1)


def test_a_sweep_takes_them_too(write, capsys, tmp_path):
    write(TINY + "n_images = 3\n[profile.fast]\nguidance_scale = 4\n")
    code, _, err = run(["grid", "-p", "a", "--vary", "steps=1,2", "-o", "s.png", "--save-cells", "c", "-q"], capsys)
    assert code == 0, err
    made = [read_picture(path).request for path in sorted((tmp_path / "c").glob("*.png"))]
    assert [(one.steps, one.width, one.n_images) for one in made] == [(1, 16, 1), (2, 16, 1)]
    assert run(["grid", "a.png", "-o", "s.png", "--profile", "fast"], capsys)[0] == 2


def test_who_names_the_model(write, monkeypatch):
    """An option and a profile, then MLXDIFF_MODEL, then the file, then `pull --set-default`, then the built-in one."""
    from mlxdiff import hub

    write('[profile.mine]\nmodel = "acme/four"\n')
    assert config.layers().default_model() == ("emoji", None, "default")
    hub.set_default_model("acme/one")
    assert config.layers().default_model() == ("acme/one", None, "pull --set-default")
    write('model = "acme/two"\nrevision = "v2"\n[profile.mine]\nmodel = "acme/four"\n')
    assert config.layers().default_model() == ("acme/two", "v2", "config file")
    monkeypatch.setenv("MLXDIFF_MODEL", "acme/three")
    layers = config.layers("mine")
    assert layers.default_model() == ("acme/three", None, "environment")
    assert layers.below({}) == {"model": "acme/four"}, "the file's revision is not of this model"
    assert layers.below({"model": "acme/five"}) == {"model": "acme/five"}
    assert layers.origin("model") == ("acme/four", "profile")


def test_a_samplers_older_name_sets_and_resets_both(write):
    write('sampler = "DPM++ 2M Karras"\n')
    assert config.layers().below({}) == {"sampler": "dpmpp_2m", "schedule": "karras"}
    assert Request(**config.layers().below({"sampler": "DPM++ 2M Exponential"})).schedule == "exponential"


def test_every_setting_may_stand_in_it(write):
    write(
        'lora = ["pixel-art,scale=0.8", {ref = "ink", scale = 2}]\nsigmas = [14.6, 2.5, 0]\nseed_resize = "512x768"\n'
        'expand = [1, 2, 3, 4]\ndtype = "fp32"\nquantize = 8\n'
    )
    found = config.layers().below({})
    assert [(one.ref, one.scale) for one in found["lora"]] == [("pixel-art", 0.8), ("ink", 2)]
    assert Request(**found).to_json() == Request(lora=found["lora"], sigmas="14.6,2.5,0", seed_resize="512x768",
                                                 expand="1,2,3,4", dtype="fp32", quantize=8).to_json()  # fmt: skip


def test_info_shows_each_value_and_who_gave_it(write, capsys, monkeypatch):
    write('steps = 30\nsampler = "euler"\n[profile.fast]\nsteps = 8\n')
    monkeypatch.setenv("MLXDIFF_MODEL", "acme/three")
    _, out, _ = run(["info", "--settings", "--profile", "fast", "--json"], capsys)
    rows = {row["name"]: (row["value"], row["source"]) for row in map(json.loads, out.splitlines())}
    assert rows["steps"] == (8, "profile")
    assert rows["sampler"] == ("euler", "config file")
    assert rows["model"] == ("acme/three", "environment")
    assert rows["n_images"] == (1, "default")
    assert rows["width"] == (None, "default")
    assert set(rows) == {item.name for item in settings_of()}
    _, out, err = run(["info", "--settings"], capsys)
    line = next(line for line in out.splitlines() if line.startswith("--steps "))
    assert "  30  " in line
    assert "config file; default: the checkpoint's" in line
    assert "config.toml" in err
    assert run(["info", "--profile", "fast"], capsys)[0] == 2


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("steps = 3\nheight ==", "line 2: It is not TOML"),
        ('model = "x', "line 1: It is not TOML"),
        ("a = 1\na = 2", "line 2: It is not TOML"),
        ("seed = 1\nstep = 2", "line 2: There is no setting 'step'. Did you mean steps?"),
        ("[profile.fast]\n\nstpes = 2", "line 3: There is no setting 'stpes'. Did you mean steps?"),
        ("steps = 0", "line 1: steps is 0. It is a whole number from 1 to 1000."),
        ('steps = "3"', "line 1: steps is '3'."),
        ("seed = 1\n[profile.fast]\nseed = 2\ncfg = -1", "line 4: guidance_scale is -1."),
        ('lora = ["x,scl=3"]', "line 1: lora ',scl=3' has no meaning."),
        ("cfg = 3\nguidance_scale = 3", "line 2: guidance_scale is there twice."),
        ('prompt = "x"', "line 1: A prompt is no default."),
        ("[steps]\nx = 1", "line 1: steps is {'x': 1}."),
        ("steps = 2020-01-01", "line 1: steps is"),
        ("profile = 3", "profile is no table of tables."),
        ("[profile]\nfast = 3", "profile is no table of tables."),
        ('hashes = "x"', "line 1: There is no setting 'hashes'."),
        ("a = " + "[" * 5000, "nested too deeply"),
    ],
)
def test_what_is_wrong_is_one_sentence_with_its_place(write, capsys, text, said):
    write(text)
    code, out, err = run(["generate", "a cat"], capsys)
    assert code in (1, 2)
    assert (out, err.count("\n")) == ("", 1)
    assert err.startswith("error: ")
    assert "config.toml" in err
    assert said in err


def test_files_that_are_none(tmp_path, monkeypatch):
    for name, content in (("bytes.toml", b"steps = 3\n# \xff"), ("large.toml", b"#" * (config.MAX_BYTES + 1))):
        (tmp_path / name).write_bytes(content)
        monkeypatch.setenv("MLXDIFF_CONFIG", str(tmp_path / name))
        with pytest.raises(MlxdiffError, match=r"line 2: byte 13 is not UTF-8|is larger than"):
            config.layers()
    for path in (tmp_path, tmp_path / "nosuch.toml"):
        monkeypatch.setenv("MLXDIFF_CONFIG", str(path))
        with pytest.raises(MlxdiffError, match=r"cannot be read|no such file"):
            config.layers()


def test_a_profile_that_is_not_there(write, capsys):
    write("[profile.fast]\nsteps = 3")
    assert "has no profile 'fats'. Did you mean fast?" in run(["generate", "a", "--profile", "fats"], capsys)[2]
    write("steps = 3")
    assert "has no profiles. Write [profile.fast] into" in run(["generate", "a", "--profile", "fast"], capsys)[2]


def test_the_place_is_the_platforms_and_need_not_exist(monkeypatch, tmp_path):
    import platformdirs

    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("MLXDIFF_CONFIG")
    assert config.place() == Path(platformdirs.user_config_dir("mlxdiff")) / "config.toml"
    assert config.read() == config.Config()


def test_the_package_reads_no_config(tmp_path):
    (tmp_path / "config.toml").write_text("this is no TOML")
    code = "import mlxdiff; sd = mlxdiff.StableDiffusion('emoji'); assert sd.resolve(mlxdiff.Request('x')).steps != 3"
    subprocess.run([sys.executable, "-c", code], check=True, env={
        **__import__("os").environ, "MLXDIFF_CONFIG": str(tmp_path / "config.toml")})  # fmt: skip
