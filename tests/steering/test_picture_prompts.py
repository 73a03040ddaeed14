"""What surrounds pictures as prompts: what is kept, recorded and let go, and what is refused in words."""

from __future__ import annotations

import json
import shutil

import mlx.core as mx
import numpy as np
import pytest
import tiny
import tiny_ip_adapters
import torch
from diffusers import UNet2DConditionModel
from mlx.utils import tree_flatten
from PIL import Image
from safetensors.torch import load_file, save_file
from skimage import data

from mlxdiff import Request, StableDiffusion, memory, resolve
from mlxdiff.cli import info
from mlxdiff.errors import CheckpointError, InputError, MlxdiffError, ModelNotFoundError, RequestError, UnsupportedError
from mlxdiff.models.clip_vision import CLIPVisionModel
from mlxdiff.steering import ip_adapters
from mlxdiff.steering.ip_adapter_files import read_config
from mlxdiff.steering.picture_prompts import PicturePrompts

pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
]
SETTINGS = {"steps": 2, "seed": 3, "height": 32, "width": 32, "guidance_scale": 5.0}


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return tiny.write(tiny.sd15, tmp_path_factory.mktemp("sd15"))


@pytest.fixture(scope="module")
def adapters(model, tmp_path_factory):
    unet = UNet2DConditionModel.from_pretrained(model, subfolder="unet")
    return tiny_ip_adapters.write(unet, tmp_path_factory.mktemp("adapters"), ("plain", "plus"))


@pytest.fixture(scope="module")
def sd(model):
    return StableDiffusion(str(model), dtype="fp32")


@pytest.fixture(scope="module")
def cat(tmp_path_factory):
    path = tmp_path_factory.mktemp("photos") / "cat.png"
    Image.fromarray(data.chelsea()).save(path)
    return path


def latents(sd, **settings) -> np.ndarray:
    found = None
    for found in sd.generate_latents("a cat", **SETTINGS | settings):
        mx.eval(found)
    return np.array(found)


def test_a_request_without_pictures_is_as_if_there_had_never_been_any(sd, adapters, cat):
    before, weights = latents(sd), dict(tree_flatten(sd.networks.backbone.network.parameters()))
    seen = latents(sd, ip_adapter=f"{adapters}/plus.safetensors={cat}")
    after = dict(tree_flatten(sd.networks.backbone.network.parameters()))
    assert not np.array_equal(before, seen)
    assert np.array_equal(before, latents(sd))
    assert after.keys() == weights.keys()
    assert all(after[name] is weights[name] for name in weights)
    assert np.array_equal(seen, latents(sd, ip_adapter=f"{adapters}/plus.safetensors={cat}"))


def test_a_scale_of_zero_is_no_adapter(sd, adapters, cat):
    assert np.array_equal(latents(sd), latents(sd, ip_adapter=f"{adapters}/plain.safetensors={cat},scale=0"))


def test_a_mask_that_is_white_changes_nothing(sd, adapters, cat, tmp_path):
    Image.new("L", (7, 5), 255).save(tmp_path / "white.png")
    asked = f"{adapters}/plain.safetensors={cat}"
    expected = latents(sd, ip_adapter=asked)
    assert np.allclose(expected, latents(sd, ip_adapter=f"{asked},mask={tmp_path}/white.png"))
    white = {"ref": adapters / "plain.safetensors", "image": cat, "mask": np.ones((4, 4), bool)}
    assert np.allclose(expected, latents(sd, ip_adapter=white))


def test_compiled_calls_keep_no_picture_of_another_request(model, sd, adapters, cat, monkeypatch):
    asked = [f"{adapters}/{kind}.safetensors={cat}" for kind in ("plain", "plus")]
    requests = [{}, {"ip_adapter": asked[0]}, {"ip_adapter": asked}, {"ip_adapter": asked[1]}, {}]
    expected = [latents(sd, **settings) for settings in requests]
    compiled = StableDiffusion(str(model), dtype="fp32")
    monkeypatch.setattr(compiled.networks.backbone, "_compiles", True)
    for settings, picture in zip(requests, expected, strict=True):
        assert np.abs(latents(compiled, **settings) - picture).max() < 1e-4


def test_an_image_does_not_depend_on_its_batch(sd, adapters, cat):
    asked = {"ip_adapter": f"{adapters}/plus.safetensors={cat}"}
    together = latents(sd, n_images=2, **asked)
    alone = np.concatenate([latents(sd, seed=seed, **asked) for seed in (3, 4)])
    assert np.abs(together - alone).max() < 1e-4


def test_step_caching_and_token_merging_go_on(sd, adapters, cat):
    asked = f"{adapters}/plain.safetensors={cat}"
    assert np.isfinite(latents(sd, ip_adapter=asked, cache_interval=2, token_merging=0.5, steps=4)).all()


@pytest.fixture
def looks(monkeypatch):
    """How often an image encoder looked at a picture."""
    found = []
    call = CLIPVisionModel.__call__
    monkeypatch.setattr(CLIPVisionModel, "__call__", lambda self, pixels: found.append(1) or call(self, pixels))
    return found


def test_a_picture_is_looked_at_once_by_its_content(model, adapters, cat, tmp_path, looks):
    sd = StableDiffusion(str(model), dtype="fp32")
    shutil.copy(cat, tmp_path / "the same.png")
    first = latents(sd, ip_adapter=f"{adapters}/plain.safetensors={cat}")
    for settings in (
        {"seed": 9, "ip_adapter": f"{adapters}/plain.safetensors={cat},scale=0.5"},
        {"ip_adapter": f"{adapters}/plain.safetensors={tmp_path}/the same.png"},
    ):
        latents(sd, **settings)
    assert len(looks) == 1
    latents(sd, ip_adapter=f"{adapters}/plus.safetensors={cat}")
    assert len(looks) == 2, "Plus needs to know what nothing looks like"
    Image.fromarray(data.coffee()).save(tmp_path / "the same.png")
    latents(sd, ip_adapter=f"{adapters}/plus.safetensors={tmp_path}/the same.png")
    assert len(looks) == 3
    sd.unload()
    assert np.array_equal(first, latents(sd, ip_adapter=f"{adapters}/plain.safetensors={cat}"))
    assert len(looks) == 4


def test_what_is_kept_has_an_end(model, adapters, looks, monkeypatch):
    monkeypatch.setattr("mlxdiff.steering.picture_prompts.KEPT", 3)
    prompts = PicturePrompts(StableDiffusion(str(model), dtype="fp32").networks)
    sd = StableDiffusion(str(model), dtype="fp32")
    pictures = [Image.new("RGB", (9, 9), (i, 0, 0)) for i in range(5)]
    asked = [{"ref": adapters / "plain.safetensors", "image": picture} for picture in pictures]
    prompts.see([sd.resolve(Request("x", ip_adapter=[one])) for one in asked])
    assert len(looks) == 5
    assert len(prompts._seen) == 3


def test_the_image_encoder_is_let_go_where_memory_is_scarce(model, adapters, cat, monkeypatch):
    asked = {"ip_adapter": f"{adapters}/plus.safetensors={cat}"}
    roomy = StableDiffusion(str(model), dtype="fp32")
    expected = latents(roomy, **asked)
    assert roomy._picture_prompts._encoders
    monkeypatch.setattr(memory, "keeps_encoders", lambda *_: False)
    scarce = StableDiffusion(str(model), dtype="fp32")
    assert np.array_equal(expected, latents(scarce, **asked))
    assert not scarce._picture_prompts._encoders
    assert len(scarce._picture_prompts._adapters) == 1
    latents(scarce)
    assert not scarce._picture_prompts._adapters


def test_pictures_of_later_jobs_are_seen_ahead(model, adapters, cat, looks):
    sd = StableDiffusion(str(model), dtype="fp32")
    requests = [
        sd.resolve(Request("a cat", ip_adapter=f"{adapters}/plain.safetensors={cat},scale={scale}", **SETTINGS))
        for scale in (0.5, 1)
    ]
    sd.encode_ahead(requests)
    assert len(looks) == 1
    for request in requests:
        next(sd.denoise(request))
    assert len(looks) == 1


def test_a_record_names_the_contents_and_renders_the_same_again(sd, adapters, cat):
    picture = sd.generate("a cat", ip_adapter=f"{adapters}/plain.safetensors={cat},scale=0.5", **SETTINGS)[0]
    recorded = json.loads(picture.info["mlxdiff"])
    values = recorded.get("request", recorded)
    assert values["ip_adapter"] == [{"ref": f"{adapters}/plain.safetensors", "image": str(cat), "scale": 0.5}]
    assert {str(cat), f"{adapters}/plain.safetensors"} <= set(values["hashes"])
    again = sd.resolve(Request.from_dict(values))
    assert resolve._hashes(again) == tuple((name, values["hashes"][name]) for name, _ in resolve._hashes(again))
    settings = {name: value for name, value in values.items() if name not in ("prompt", "model", "dtype", "hashes")}
    assert np.array_equal(np.asarray(sd.generate("a cat", **settings)[0]), np.asarray(picture))


def test_pixels_in_memory_are_recorded_by_their_hash(sd, adapters):
    photo = data.coffee()
    asked = {"ref": adapters / "plain.safetensors", "image": [photo, Image.fromarray(data.chelsea())]}
    values = sd.resolve(Request("a cat", ip_adapter=asked, **SETTINGS)).values()
    (recorded,) = values["ip_adapter"]
    assert all(name.startswith("memory:") and name in values["hashes"] for name in recorded["image"])
    with pytest.raises(InputError, match="was in memory"):
        next(sd.denoise(Request("a cat", ip_adapter=[recorded], **SETTINGS)))


BAD = [
    ("nowhere.safetensors={cat}", ModelNotFoundError, "nowhere.safetensors"),
    ("{adapters}/plain.safetensors=nowhere.png", InputError, "no picture nowhere.png"),
    ("{adapters}/plain.safetensors={cat},mask=nowhere.png", InputError, "no picture nowhere.png"),
    ("{adapters}/plain.safetensors={cat},mask={adapters}/../black.png", RequestError, "is black all over"),
    ("{adapters}={cat}", RequestError, "is a folder"),
    (
        "{adapters}/plain.safetensors={cat},scale=up.0.0:1",
        RequestError,
        r"no prompt.*down\.0\.0, mid, up\.1\.0, up\.1\.1",
    ),
    ("{adapters}/plain.safetensors={cat},start=0.6,end=0.9", RequestError, "None of 2 steps"),
    ("{adapters}/plain.safetensors={cat},encoder={adapters}", ModelNotFoundError, "no config.json"),
    ("{model}/unet/diffusion_pytorch_model.safetensors={cat}", CheckpointError, "is no IP-Adapter"),
    ("{model}/unet/config.json={cat}", MlxdiffError, "config.json"),
]


@pytest.mark.parametrize(("text", "error", "message"), BAD, ids=[text for text, _, _ in BAD])
def test_what_cannot_be_is_said_in_a_sentence(sd, model, adapters, cat, text, error, message):
    Image.new("L", (9, 9), 127).save(adapters.parent / "black.png")
    asked = text.format(model=model, adapters=adapters, cat=cat)
    with pytest.raises(error, match=message) as caught:
        sd.resolve(Request("a cat", ip_adapter=asked, **SETTINGS))
    assert caught.value.problem.endswith(".")
    assert caught.value.remedy


def test_an_adapter_of_another_family_is_named(sd, adapters, cat, tmp_path):
    torch.manual_seed(0)
    shutil.copytree(adapters / "image_encoder", tmp_path / "image_encoder")
    layers = {f"ip_adapter.{2 * i + 1}.to_{x}_ip.weight": torch.zeros(8, 768) for i in range(16) for x in "kv"}
    projection = {"image_proj.proj.weight": torch.zeros(3072, 1024), "image_proj.proj.bias": torch.zeros(3072)}
    norm = {"image_proj.norm.weight": torch.zeros(768), "image_proj.norm.bias": torch.zeros(768)}
    save_file(layers | projection | norm, tmp_path / "sd.safetensors")
    with pytest.raises(RequestError, match=r"for Stable Diffusion 1\.x: it attends 16 times .*768.* 4 times .* 32"):
        sd.resolve(Request("a cat", ip_adapter=f"{tmp_path}/sd.safetensors={cat}", **SETTINGS))


def test_without_an_image_encoder_it_is_said_which_to_get(sd, adapters, cat, tmp_path):
    shutil.copy(adapters / "plain.safetensors", tmp_path)
    asked = f"{tmp_path}/plain.safetensors={cat}"
    with pytest.raises(ModelNotFoundError, match=r"needs an image encoder that gives 24 numbers, and there is none"):
        sd.resolve(Request("a cat", ip_adapter=asked, **SETTINGS))
    expected = latents(sd, ip_adapter=f"{adapters}/plain.safetensors={cat}")
    assert np.array_equal(expected, latents(sd, ip_adapter=f"{asked},encoder={adapters}/image_encoder"))
    tiny_ip_adapters.vision(projection_dim=16).save_pretrained(tmp_path / "image_encoder")
    with pytest.raises(ModelNotFoundError, match="what is there gives 16"):
        sd.resolve(Request("a cat", ip_adapter=asked, **SETTINGS))
    with pytest.raises(RequestError, match=r"gives 16 numbers, and .* reads 24"):
        sd.resolve(Request("a cat", ip_adapter=f"{asked},encoder={tmp_path}/image_encoder", **SETTINGS))


def test_an_encoder_that_was_pulled_serves_adapters_elsewhere(sd, adapters, cat, tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    snapshot = tmp_path / "hub" / "models--h94--IP-Adapter" / "snapshots" / ("0" * 40)
    (snapshot.parents[1] / "refs").mkdir(parents=True)
    (snapshot.parents[1] / "refs" / "main").write_text("0" * 40)
    shutil.copytree(adapters / "image_encoder", snapshot / "models" / "image_encoder")
    shutil.copy(adapters / "plain.safetensors", tmp_path / "mine.safetensors")
    shutil.copy(adapters / "plain.safetensors", snapshot / "models" / "ip-adapter.safetensors")
    expected = latents(sd, ip_adapter=f"{adapters}/plain.safetensors={cat}")
    for asked in (
        f"{tmp_path}/mine.safetensors={cat}",
        f"{tmp_path}/mine.safetensors={cat},encoder=h94/IP-Adapter/models/image_encoder",
        f"h94/IP-Adapter/models/ip-adapter.safetensors={cat}",
    ):
        assert np.array_equal(expected, latents(sd, ip_adapter=asked))
    with pytest.raises(ModelNotFoundError, match=r"no folder h94/IP-Adapter/nowhere of an image encoder"):
        latents(sd, ip_adapter=f"{tmp_path}/mine.safetensors={cat},encoder=h94/IP-Adapter/nowhere")


def test_the_published_repository_s_folders_are_looked_into(sd, adapters, cat, tmp_path):
    """models/image_encoder serves sdxl_models/*_vit-h, whose own image_encoder has another width."""
    for name in ("models", "sdxl_models"):
        (tmp_path / name).mkdir()
    shutil.copy(adapters / "plain.safetensors", tmp_path / "sdxl_models" / "vit-h.safetensors")
    shutil.copytree(adapters / "image_encoder", tmp_path / "models" / "image_encoder")
    tiny_ip_adapters.vision(projection_dim=16).save_pretrained(tmp_path / "sdxl_models" / "image_encoder")
    found = latents(sd, ip_adapter=f"{tmp_path}/sdxl_models/vit-h.safetensors={cat}")
    assert np.array_equal(found, latents(sd, ip_adapter=f"{adapters}/plain.safetensors={cat}"))


FACES = {
    "faceid": {"image_proj.proj.0.weight": (8, 4), "image_proj.proj.2.weight": (8, 8), "image_proj.norm.weight": (2,)},
    "plus": {"image_proj.perceiver_resampler.proj_in.weight": (8, 4)},
    "lora": {"image_proj.proj.weight": (8, 4), "ip_adapter.0.to_q_lora.down.weight": (4, 4)},
}


@pytest.mark.parametrize("kind", list(FACES))
def test_face_id_is_refused_in_words(tmp_path, kind):
    shapes = FACES[kind] | {"ip_adapter.1.to_k_ip.weight": (4, 2), "ip_adapter.1.to_v_ip.weight": (4, 2)}
    save_file({key: torch.zeros(shape) for key, shape in shapes.items()}, tmp_path / "face.safetensors")
    with pytest.raises(UnsupportedError, match="FaceID, which needs a program that recognizes faces"):
        read_config(tmp_path / "face.safetensors")


DAMAGE = [
    ({"ip_adapter.3.to_k_ip.weight": None, "ip_adapter.3.to_v_ip.weight": None}, "with gaps in their numbers"),
    ({"ip_adapter.3.to_k_ip.weight": None}, "lacks keys or values"),
    ({"ip_adapter.3.to_v_ip.weight": None}, "lacks the weight 'ip_adapter.1.to_v_ip.weight'"),
    ({"ip_adapter.1.to_v_ip.weight": (3, 3)}, "in the shape"),
    ({"image_proj.proj.weight": (100, 24)}, "not 4 tokens of 32"),
    ({"image_proj.proj.weight": None}, "unknown kind"),
    ({"image_proj.norm.bias": None}, "lacks the weight"),
    ({"image_proj.extra": (3,)}, "has no place for"),
    ({"image_proj.proj.weight": (0, 0), "ip_adapter.1.to_k_ip.weight": (32, 0)}, "not 4 tokens of 0"),
]


@pytest.mark.parametrize(("changes", "message"), DAMAGE, ids=[message for _, message in DAMAGE])
def test_a_damaged_file_is_named(sd, adapters, cat, tmp_path, changes, message):
    tensors = load_file(adapters / "plain.safetensors")
    for key, shape in changes.items():
        tensors.pop(key, None)
        if shape is not None:
            tensors[key] = torch.zeros(shape)
    save_file(tensors, tmp_path / "bad.safetensors")
    asked = f"{tmp_path}/bad.safetensors={cat},encoder={adapters}/image_encoder"
    with pytest.raises(CheckpointError, match=message):
        next(sd.denoise(Request("a cat", ip_adapter=asked, **SETTINGS)))


def test_info_says_what_a_file_is(model, adapters, capsys):
    info.about_all([str(adapters / "plus.safetensors"), str(adapters / "plain.safetensors")], json=True)
    plus, plain = map(json.loads, capsys.readouterr().out.splitlines())
    assert plus["kind"] == "IP-Adapter, plus"
    assert plus["image encoder"] == f"gives {tiny_ip_adapters.HIDDEN} numbers a patch"
    assert (plain["kind"], plain["tokens of a picture"], plain["cross-attentions"]) == ("IP-Adapter, plain", 4, 4)
    assert ip_adapters.describe(model / "unet" / "diffusion_pytorch_model.safetensors") is None


def test_weights_that_are_no_numbers_are_named_before_the_first_step(sd, adapters, cat, tmp_path):
    folder = tmp_path / "adapters"
    shutil.copytree(adapters, folder)
    tensors = load_file(folder / "plain.safetensors")
    key = next(key for key in tensors if key.endswith("to_k_ip.weight"))
    tensors[key][0, 0] = float("inf")
    save_file(tensors, folder / "plain.safetensors")
    for _ in range(2):
        with pytest.raises(CheckpointError, match=r"plain\.safetensors holds NaN or infinity in"):
            latents(sd, ip_adapter=f"{folder}/plain.safetensors={cat}")
