"""The built-in model's training: packages to pictures, scenes that are what they say, a few steps, a checkpoint."""

from __future__ import annotations

import colorsys
import json
import random
import re
import subprocess
import sys
import weakref
from itertools import pairwise

import numpy as np
import pytest
import torch
import training_scripts
from diffusers import AutoencoderKL, DDIMScheduler, StableDiffusionPipeline
from PIL import Image, ImageDraw

from mlxdiff import StableDiffusion
from mlxdiff.errors import MlxdiffWarning

SHAPES = {
    "red apple": (220, 30, 30),
    "blue book": (40, 90, 240),
    "green leaf": (40, 180, 60),
    "dog face": (150, 150, 150),
}


@pytest.fixture(scope="module")
def scripts():
    with training_scripts.loaded() as modules:
        yield modules


@pytest.fixture(scope="module")
def cut_out(tmp_path_factory):
    """Discs and squares of four colors, as `prepare.py packages` would write them."""
    folder = tmp_path_factory.mktemp("cut-out")
    lines = []
    for i, (name, color) in enumerate(SHAPES.items()):
        for style in ("3d", "flat"):
            picture = Image.new("RGBA", (128, 128))
            draw = ImageDraw.Draw(picture)
            (draw.ellipse if style == "3d" else draw.rectangle)((14 + i, 20, 110, 112), fill=(*color, 255))
            place = f"{style}-{i}.webp"
            picture.save(folder / place, lossless=True)
            tags = ["fruit", name.split()[0]] if i == 0 else ["pet"]
            about = {"file_name": place, "text": name, "name": name, "style": style, "group": 4}
            lines.append(json.dumps({**about, "tags": tags, "words": ["thing"]}))
    (folder / "metadata.jsonl").write_text("\n".join(lines))
    return folder


@pytest.fixture(scope="module")
def work(scripts, cut_out, tmp_path_factory):
    """Two steps of each training."""
    folder = tmp_path_factory.mktemp("work")
    scripts["train_vae"].main(cut_out, folder, steps=2, batch_size=2, workers=0)
    scripts["train_unet"].main(cut_out, folder, steps=2, batch_size=2, pool=8, preview=1, workers=0)
    return folder


def node_modules(folder, packages, licenses=None):
    """The packages as npm lays them out, each with two pictures."""
    for row in (*packages.SETS, *packages.WORDS):
        place = folder / row.package
        place.mkdir(parents=True)
        about = {"name": row.package, "version": row.version, "license": (licenses or {}).get(row.package, row.license)}
        (place / "package.json").write_text(json.dumps(about))
    dog = {"hexcode": "1F436", "label": "dog face", "emoji": "🐶", "group": 3, "tags": ["puppy", "dog’s"]}
    clock = {"hexcode": "1F55B", "label": "twelve o’clock", "emoji": "🕛", "group": 5, "tags": ["time"]}
    flag = {"hexcode": "1F1E6-1F1E8", "label": "flag: Ascension Island", "emoji": "🇦🇨", "group": 9}
    mark = {"hexcode": "00A9", "label": "copyright", "emoji": "©️", "group": 8, "tags": ["c"]}
    (folder / "emojibase-data" / "en").mkdir()
    (folder / "emojibase-data" / "en" / "data.json").write_text(json.dumps([dog, clock, flag, mark]))
    (folder / "emojilib" / "dist").mkdir()
    (folder / "emojilib" / "dist" / "emoji-en-US.json").write_text(json.dumps({"🐶": ["dog_face", "woof", "puppy"]}))
    assets = folder / packages.SETS[0].package / "assets"
    assets.mkdir()
    for stem in ("1f436", "00a9-fe0f", "1f55b"):
        Image.new("RGBA", (256, 256), (200, 120, 40, 255)).save(assets / f"{stem}.webp", lossless=True)
    for row in packages.SETS[1:]:
        icons = {"width": 32, "height": 32, "icons": {"dog": {"body": '<path fill="#00f" d="M0 0h16v32H0z"/>'}}}
        icons["aliases"] = {"dog-face": {"parent": "dog"}}
        (folder / row.package / "icons.json").write_text(json.dumps(icons))
        (folder / row.package / "chars.json").write_text(json.dumps({"1f436": "dog-face"}))
    return folder


def test_packages_become_pictures_with_names_and_recorded_licenses(scripts, tmp_path):
    pytest.importorskip("resvg_py")
    packages, prepare = scripts["packages"], scripts["prepare"]
    prepare.packages(node_modules(tmp_path / "node_modules", packages), tmp_path / "out", size=64)
    rows = [json.loads(line) for line in (tmp_path / "out" / "metadata.jsonl").read_text().splitlines()]
    assert {(row["name"], row["style"]) for row in rows} == {
        *(("dog face", row.style) for row in packages.SETS),
        ("copyright", "3d"),
    }
    assert {row["text"] for row in rows if row["style"] == "3d"} == {"a copyright, 3d style", "a dog face, 3d style"}
    drawn = np.asarray(Image.open(tmp_path / "out" / "flat" / "1f436.webp").convert("RGBA"))
    assert drawn.shape == (64, 64, 4)
    assert (drawn[:, :32] == (0, 0, 255, 255)).all()
    assert not drawn[:, 32:, 3].any()
    recorded = json.loads((tmp_path / "out" / "licenses.json").read_text())
    assert {each["package"]: each["license"] for each in recorded}["@iconify-json/twemoji"] == "CC-BY-4.0"


def test_names_leave_out_clocks_and_flags_and_keep_tags_apart_from_words(scripts, tmp_path):
    packages = scripts["packages"]
    names = packages.names(node_modules(tmp_path, packages))
    assert [each.name for each in names] == ["dog face", "copyright"]
    assert names[0].tags == ("puppy", "dogs")
    assert names[0].words == ("woof",)
    assert names[1].code == "a9"


def test_a_package_of_another_license_or_none_is_refused(scripts, tmp_path):
    packages = scripts["packages"]
    with pytest.raises(SystemExit, match="npm install"):
        packages.check(tmp_path)
    node_modules(tmp_path / "a", packages, {"@iconify-json/noto": "CC-BY-SA-4.0"})
    with pytest.raises(SystemExit, match=r"license CC-BY-SA-4\.0, not Apache-2\.0"):
        packages.check(tmp_path / "a")


def test_captions_say_what_is_drawn(scripts, cut_out):
    scenes, (_, catalogue) = scripts["scenes"], scripts["canvas"].read(cut_out)
    chance = random.Random(3)
    numbers = {"two": 2, "a pair": 2, "three": 3, "four": 4}
    seen = set()
    for _ in range(3000):
        scene = scenes.scene(catalogue, chance)
        seen.add(len(scene.layers))
        rows = [catalogue.rows[layer.row] for layer in scene.layers]
        said = [color for color, rgb in scripts["colors"].GROUNDS.items() if rgb == scene.ground]
        if scene.caption.endswith(" background"):
            assert scene.caption.split()[-2] == said[0]
        elif scene.ground != (255, 255, 255):
            assert scene.caption.endswith(f"on {said[0]}")
        for style in catalogue.styles:
            if f"{style} style" in scene.caption:
                assert {row.style for row in rows} == {style}
        for words, count in numbers.items():
            if f"{words} " in scene.caption:
                assert len(scene.layers) == count
        if len(scene.layers) == 1:
            ground = said[0]
            assert not scenes.held_out(rows[0].name, rows[0].style, ground)
    assert seen == {1, 2, 3, 4}


@pytest.mark.parametrize(
    ("name", "one", "many"),
    [
        ("red apple", "a red apple", "red apples"),
        ("umbrella", "an umbrella", "umbrellas"),
        ("unicorn", "a unicorn", "unicorns"),
        ("cherries", "cherries", "cherries"),
        ("bus", "a bus", "buses"),
        ("peach", "a peach", "peaches"),
        ("strawberry", "a strawberry", "strawberries"),
        ("monkey", "a monkey", "monkeys"),
        ("old woman", "an old woman", "old women"),
        ("face with smiling eyes", "a face with smiling eyes", "faces with smiling eyes"),
        ("glass of milk", "a glass of milk", "glasses of milk"),
        ("slices of pizza", "slices of pizza", "slices of pizza"),
        ("maple leaf", "a maple leaf", "maple leaves"),
    ],
)
def test_articles_and_plurals(scripts, name, one, many):
    captions = scripts["captions"]
    assert (captions.article(name), captions.plural(name)) == (one, many)


def test_a_picture_in_its_place_is_what_pillow_composes(scripts, cut_out):
    canvas, scenes = scripts["canvas"], scripts["scenes"]
    textures, catalogue = canvas.read(cut_out)
    easel = canvas.Canvas(textures, torch.device("cpu"))
    scene = scenes.Scene((scenes.Layer(0),), (41, 121, 255), "")
    drawn = easel.draw(canvas.plan([scene], catalogue))[0].permute(1, 2, 0).numpy()
    ground = Image.new("RGBA", (128, 128), (41, 121, 255, 255))
    ground.alpha_composite(Image.open(cut_out / "3d-0.webp").convert("RGBA"))
    np.testing.assert_allclose(drawn, np.asarray(ground.convert("RGB")) / 255, atol=1.5 / 255)


def test_layers_stand_where_they_should(scripts, cut_out):
    canvas, scenes = scripts["canvas"], scripts["scenes"]
    textures, catalogue = canvas.read(cut_out)
    easel = canvas.Canvas(textures, torch.device("cpu"))
    layers = (scenes.Layer(1, -0.5, 0.0, 0.5), scenes.Layer(3, 0.5, -0.5, 0.5))
    drawn = easel.draw(canvas.plan([scenes.Scene(layers, (255, 255, 255), "")], catalogue))[0]
    half = Image.open(cut_out / "flat-0.webp").convert("RGBA").resize((64, 64), Image.Resampling.BOX)
    alone = Image.new("RGBA", (128, 128), "white")
    alone.alpha_composite(half, (0, 32))
    wanted = torch.from_numpy(np.asarray(alone.convert("RGB")) / 255).permute(2, 0, 1)
    assert (drawn[:, :, :64] - wanted[:, :, :64]).abs().mean() < 0.01
    assert (drawn[2, 32, 96] > 0.8) & (drawn[0, 32, 96] < 0.3)  # the blue one, in the top right quarter
    assert (drawn[:, 96, 96] == 1).all()


def test_hues_are_those_of_colorsys(scripts):
    colors = scripts["colors"]
    values = torch.rand((1, 3, 8, 8), generator=torch.Generator().manual_seed(0))
    hue, saturation, value = colors.to_hsv(values)
    for y in range(8):
        wanted = colorsys.rgb_to_hsv(*values[0, :, y, 0].tolist())
        found = (hue[0, y, 0].item() / 360, saturation[0, y, 0].item(), value[0, y, 0].item())
        assert found == pytest.approx(wanted, abs=1e-5)
    torch.testing.assert_close(colors.to_rgb(hue, saturation, value), values, atol=1e-5, rtol=0)


def test_a_tint_gives_a_picture_another_color_of_its_own(scripts, cut_out):
    canvas, scenes, colors = scripts["canvas"], scripts["scenes"], scripts["colors"]
    textures, catalogue = canvas.read(cut_out)
    assert [row.color for row in catalogue.rows[::2]] == ["red", "blue", "green", None]
    easel = canvas.Canvas(textures, torch.device("cpu"))
    for tint in colors.TINTS:
        scene = scenes.Scene((scenes.Layer(0, tint=tint if tint != "red" else None),), (255, 255, 255), "")
        drawn = easel.draw(canvas.plan([scene], catalogue))
        opaque = torch.cat([drawn, (drawn.amin(1, keepdim=True) < 0.95).float()], 1)
        assert colors.own(opaque) == [tint]


def test_latents_are_put_to_mean_0_and_deviation_1_and_come_back_the_same(scripts, cut_out):
    train_vae, canvas, loop = scripts["train_vae"], scripts["canvas"], scripts["loop"]
    torch.manual_seed(0)
    vae = train_vae.untrained().eval()
    textures, catalogue = canvas.read(cut_out)
    easel, place = canvas.Canvas(textures, torch.device("cpu")), loop.Place(torch.device("cpu"), 0, 1)
    scene = scripts["scenes"].Scene((scripts["scenes"].Layer(0),), (255, 255, 255), "")
    fixed = [(canvas.plan([scene] * 2, catalogue), torch.zeros(2, 77))]
    real = easel.draw(fixed[0][0]) * 2 - 1
    with torch.no_grad():
        before = vae.decode(vae.encode(real).latent_dist.mean).sample
        spread = vae.encode(real).latent_dist.std
        old = vae.encode(real).latent_dist.mean.std((0, 2, 3))
        train_vae.normalize(vae, easel, iter(fixed), place, rounds=1)
        latents = vae.encode(real).latent_dist
        torch.testing.assert_close(vae.decode(latents.mean).sample, before, atol=1e-4, rtol=1e-3)
    assert latents.mean.mean((0, 2, 3)).abs().max() < 1e-3
    torch.testing.assert_close(latents.mean.std((0, 2, 3)), torch.ones(4), atol=1e-3, rtol=0)
    torch.testing.assert_close(latents.std, spread / old.view(1, -1, 1, 1), atol=1e-4, rtol=1e-3)
    assert vae.config.scaling_factor == 1


@pytest.mark.slow
def test_a_training_goes_on_where_it_was_killed(scripts, cut_out, work, tmp_path, capsys):
    train_unet = scripts["train_unet"]
    state = torch.load(work / "unet.pt", weights_only=True)
    assert state["step"] == 2
    (tmp_path / "vae").symlink_to(work / "vae")
    (tmp_path / "unet.pt").write_bytes((work / "unet.pt").read_bytes())
    train_unet.main(cut_out, tmp_path, steps=3, batch_size=2, pool=8, preview=0, workers=0)
    assert "step 3 of 3" in capsys.readouterr().out
    later = torch.load(tmp_path / "unet.pt", weights_only=True)
    assert later["optimizer"]["state"][0]["step"] == 3
    with pytest.raises(SystemExit, match="was trained with"):
        train_unet.main(cut_out, tmp_path, steps=4, batch_size=3, workers=0)


@pytest.mark.slow
def test_two_processes_train_one_model(cut_out, work, tmp_path):
    (tmp_path / "vae").symlink_to(work / "vae")
    script = training_scripts.TRAINING / "train_unet.py"
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", script]
    options = ["--steps", "2", "--batch-size", "2", "--pool", "8", "--preview", "0", "--workers", "0"]
    done = subprocess.run([*command, cut_out, tmp_path, *options], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.count("step 2 of 2") == 1
    state = torch.load(tmp_path / "unet.pt", weights_only=True)
    assert (state["step"], state["settings"]["world"]) == (2, 2)
    alone = torch.load(work / "unet.pt", weights_only=True)["weights"]
    assert any(not torch.equal(alone[name], value) for name, value in state["weights"].items())


@pytest.mark.filterwarnings("ignore:.*broadcast_buffers:FutureWarning")  # older versions of torch know no other name
def test_ranks_part_when_no_averaging_module_holds_their_group(scripts, tmp_path, monkeypatch):
    """Its destructor would wait for a thread of gloo with Python's lock held, which that thread may need: a hang."""
    loop = scripts["loop"]
    torch.distributed.init_process_group("gloo", init_method=f"file://{tmp_path / 'ranks'}", rank=0, world_size=1)
    training = loop.Training(
        loop.Place(torch.device("cpu"), rank=0, world=2),
        torch.nn.Linear(2, 2),
        tmp_path / "state.pt",
        {},
        loop.Clock(1, 1, warmup=1, decay=0),
        learning_rate=1e-3,
        weight_decay=0,
        keep=0.9,
    )
    averaging = weakref.ref(training.called)
    assert isinstance(averaging(), torch.nn.parallel.DistributedDataParallel)
    destroy, alive = torch.distributed.destroy_process_group, []

    def parting():
        alive.append(averaging())
        destroy()

    monkeypatch.setattr(torch.distributed, "destroy_process_group", parting)
    training.finish()
    assert alive == [None]
    assert training.called is training.module


@pytest.mark.slow
def test_the_exported_checkpoint_is_what_diffusers_and_mlxdiff_load(scripts, cut_out, work, tmp_path, capsys):
    model = tmp_path / "emoji"
    scripts["export"].main(work, model)
    assert sum(path.stat().st_size for path in model.rglob("*") if path.is_file()) < 34e6
    assert not any(str(tmp_path.parent) in path.read_text() for path in model.rglob("*.json"))
    pipe = StableDiffusionPipeline.from_pretrained(model, safety_checker=None, dtype=torch.float32)
    trained = AutoencoderKL.from_pretrained(work / "vae")
    for a, b in zip(pipe.vae.parameters(), trained.parameters(), strict=True):
        torch.testing.assert_close(a, b.half().float(), atol=0, rtol=0)
    (picture,) = StableDiffusion(str(model)).generate("a red apple", steps=2, seed=0)
    assert picture.size == (128, 128)

    capsys.readouterr()
    scripts["evaluate"].main(
        cut_out, model, count=2, steps=1, sheet=tmp_path / "twelve.png", failures=tmp_path / "wrong.png"
    )
    out = capsys.readouterr().out
    numbers, end = json.JSONDecoder().raw_decode(out)
    assert "wrong:" in out[end:]
    assert set(numbers) == {
        *("vae_db", "gradient", "name", "name_style", "background", "white", "words", "tags"),
    }
    with Image.open(tmp_path / "twelve.png") as sheet:
        assert sheet.size == (6 * 130, 6 * 130)


def test_a_free_word_is_heard_as_the_name_that_it_means_and_names_as_before(scripts, cut_out, tmp_path):
    """By the UNet's own cross-attention; nothing but the text encoder changes."""
    words, denoising = scripts["train_words"], scripts["denoising"]
    words.main(cut_out, denoising.BUILT_IN, tmp_path, steps=40, batch_size=4, learning_rate=1e-3)
    before, after = denoising.load(denoising.BUILT_IN), denoising.load(tmp_path)
    layers = list(words.crossings(before.unet))
    asked = words.queries(before, layers, ["a dog face"])

    def distance(encoder, said, meant):
        with torch.no_grad():
            wanted = before.text_encoder(words.tokens(before, (meant, "a house"))).last_hidden_state
            found = encoder(words.tokens(before, (said, "a house"))).last_hidden_state
            pairs = zip(layers, asked, strict=True)
            return sum(words.heard(*each, found, wanted, torch.ones(77)).item() for each in pairs)

    meant = "a red apple"
    assert distance(after.text_encoder, "a fruit", meant) < 0.75 * distance(before.text_encoder, "a fruit", meant)
    assert distance(after.text_encoder, meant, meant) < distance(after.text_encoder, "a guitar", meant) / 4
    for part in ("unet", "vae"):
        (path,) = (denoising.BUILT_IN / part).glob("*.safetensors")
        assert (tmp_path / part / path.name).read_bytes() == path.read_bytes()


def test_a_step_of_the_distilled_path_is_ddims_and_the_velocity_needed_for_it_is_found_back(scripts):
    distill, denoising = scripts["distill"], scripts["denoising"]
    parts = denoising.load(denoising.BUILT_IN)
    courses = distill.Courses.of(parts, few=4, each=5)
    assert [leg[0] for leg in courses.legs] == [999, 749, 499, 249]  # diffusers' trailing spacing of four steps
    scheduler = DDIMScheduler.from_config(parts.noises.config)
    scheduler.set_timesteps(20)
    latents, velocity = torch.randn(2, 2, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    times = [time for leg in courses.legs for time in leg[:-1]]
    assert times == scheduler.timesteps.tolist()
    for time, after in pairwise([*times, -1]):
        found = courses.step(latents, velocity, time, after)
        expected = scheduler.step(velocity, time, latents).prev_sample
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(courses.needed(latents, found, time, after), velocity, rtol=1e-3, atol=1e-3)


def test_few_steps_are_distilled_into_a_lora_that_goes_on_and_that_mlxdiff_reads(scripts, cut_out, tmp_path, capsys):
    distill = scripts["distill"]
    path = tmp_path / "emoji-2steps.safetensors"
    sizes = {"few": 2, "each": 2, "rank": 2, "batch_size": 2}
    distill.main(cut_out, path, steps=1, **sizes)
    distill.main(cut_out, path, steps=2, **sizes)
    assert "after 2 steps" in capsys.readouterr().out
    with pytest.raises(SystemExit, match='"few": 2'):
        distill.main(cut_out, path, steps=2, **{**sizes, "few": 4})
    sd, size = StableDiffusion("emoji"), {"width": 32, "height": 32, "seed": 1}
    with pytest.warns(MlxdiffWarning, match="sampler ddim, schedule trailing, steps 2, guidance scale 1"):
        (with_it,) = sd.generate("a red apple", lora=str(path), **size)
    settings = {"sampler": "ddim", "schedule": "trailing", "steps": 2, "guidance_scale": 1.0}
    (without,) = sd.generate("a red apple", **settings, **size)
    assert np.asarray(with_it).tobytes() != np.asarray(without).tobytes()


def test_a_caption_with_a_word_differs_from_its_pair_by_the_name_alone(scripts, cut_out):
    words, (_, catalogue) = scripts["train_words"], scripts["canvas"].read(cut_out)
    chance = random.Random(5)
    pairs = words.spoken(catalogue, chance)
    seen = set()
    for _ in range(300):
        said, meant = (re.sub(r"^an? ", "", text) for text in next(pairs))
        same = [
            word
            for word, names in catalogue.meanings.items()
            if any(said.replace(word, name, 1) == meant for name in names) and word in said
        ]
        assert same, (said, meant)
        seen.update(same)
    assert seen == set(catalogue.meanings)


def test_the_nearest_picture_of_a_training_picture_is_itself(scripts, cut_out):
    canvas, evaluate, scenes = scripts["canvas"], scripts["evaluate"], scripts["scenes"]
    textures, catalogue = canvas.read(cut_out)
    easel = canvas.Canvas(textures, torch.device("cpu"))
    asked = [
        scenes.Scene((scenes.Layer(i),), ground, "") for i in range(8) for ground in ((255, 255, 255), (20, 20, 20))
    ]
    drawn = easel.draw(canvas.plan(asked, catalogue))
    assert evaluate.nearest(easel, drawn, asked) == [scene.layers[0].row for scene in asked]


def test_parts_that_were_not_trained_are_named(scripts, cut_out, tmp_path):
    with pytest.raises(SystemExit, match=r"Run training/train_vae\.py"):
        scripts["train_unet"].main(cut_out, tmp_path, steps=1)
    with pytest.raises(SystemExit, match=r"train_vae\.py"):
        scripts["export"].main(tmp_path, tmp_path / "emoji")
    with pytest.raises(SystemExit, match=r"prepare\.py packages"):
        scripts["train_vae"].main(tmp_path, tmp_path, steps=1)
    lines = [json.dumps({"file_name": "a.png", "text": "a disc"})]
    (tmp_path / "metadata.jsonl").write_text("\n".join(lines))
    with pytest.raises(SystemExit, match="does not name its pictures"):
        scripts["train_vae"].main(tmp_path, tmp_path, steps=1)
    about = {"file_name": "a.png", "name": "disc", "style": "3d", "group": 4, "tags": [], "words": []}
    (tmp_path / "metadata.jsonl").write_text(json.dumps(about))
    Image.new("RGBA", (64, 64)).save(tmp_path / "a.png")
    with pytest.raises(SystemExit, match="not 128x128"):
        scripts["train_vae"].main(tmp_path, tmp_path, steps=1)
