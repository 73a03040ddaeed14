"""Checkpoints of one file: every published model's names and shapes, and tiny pictures beside diffusers' loader."""

from __future__ import annotations

import json
import re
from functools import cache
from pathlib import Path

import diffusers
import ldm_layout
import mlx.core as mx
import numpy as np
import pytest
import tiny
import torch
from diffusers.loaders import single_file_utils
from mlx.utils import tree_flatten
from safetensors.torch import load_file, save_file
from torch_weights import mlx_shape, parameter_shapes
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

from mlxdiff import Request, StableDiffusion
from mlxdiff.checkpoint import single_file
from mlxdiff.checkpoint.single_file import read_single_file
from mlxdiff.errors import CheckpointError, MlxdiffError, MlxdiffWarning, UnsupportedError

pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
]

ARCHITECTURES = {"sd1": "sd1", "sd2": "sd2", "sd2_base": "sd2", "sdxl": "sdxl", "sdxl_refiner": "sdxl_refiner"}


def published(name: str) -> dict:
    return json.loads((single_file.PUBLISHED / f"{name}.json").read_text())


def full_size(name: str, **unet) -> dict[str, torch.nn.Module]:
    """diffusers' and transformers' modules of a published model, without memory."""
    configs = published(name)
    with torch.device("meta"):
        return {
            part: make(configs[part])
            for part, make in {
                "unet": lambda values: diffusers.UNet2DConditionModel(**_plain(values) | unet),
                "vae": lambda values: diffusers.AutoencoderKL(**_plain(values)),
                "text_encoder": lambda values: CLIPTextModel(CLIPTextConfig(**values)),
                "text_encoder_2": lambda values: CLIPTextModelWithProjection(CLIPTextConfig(**values)),
            }.items()
            if part in configs
        }


def _plain(values: dict) -> dict:
    return {key: value for key, value in values.items() if not key.startswith("_")}


@cache
def shapes_of(name: str, **unet) -> dict[str, tuple[int, ...]]:
    """Key -> shape of a published model in the original layout, with what its author left in the file."""
    tensors = ldm_layout.whole(ARCHITECTURES[name], full_size(name, **unet))
    shapes = {key: tuple(value.shape) for key, value in tensors.items()}
    shapes |= {"betas": (1000,), "alphas_cumprod": (1000,), "model_ema.decay": ()}
    if name.startswith("sd2"):
        layers = {key: shape for key, shape in shapes.items() if ".resblocks.22." in key}
        shapes |= {key.replace(".22.", ".23."): shape for key, shape in layers.items()}
        shapes |= {"cond_stage_model.model.text_projection": (1024, 1024), "cond_stage_model.model.logit_scale": ()}
    return shapes


def joined(shapes: dict[str, tuple[int, ...]]) -> dict[str, tuple[int, ...]]:
    """With one product for the three of each self-attention, as a loaded UNet has them."""
    apart = [key for key in shapes if key.endswith(("attn1.to_q.weight", "attn1.to_k.weight", "attn1.to_v.weight"))]
    kept = {key: shape for key, shape in shapes.items() if key not in apart}
    for key in apart[::3]:
        rows, columns = shapes[key]
        kept[re.sub(r"to_[qkv]", "to_qkv", key)] = (3 * rows, columns)
    return kept


@pytest.mark.parametrize("name", ARCHITECTURES)
@pytest.mark.filterwarnings("ignore:.*fp16.*:mlxdiff.errors.MlxdiffWarning")
def test_a_published_model_fills_every_parameter_exactly_once(tmp_path, name):
    path = ldm_layout.write_sparse(tmp_path / "model.safetensors", shapes_of(name))
    said = "epsilon" if name == "sd2_base" else "v_prediction" if name == "sd2" else None
    sd = StableDiffusion(str(path), prediction_type=said).load()
    configs, parts = published(name), full_size(name)
    theirs = {key: mlx_shape(tuple(value.shape)) for key, value in parts["unet"].state_dict().items()}
    assert parameter_shapes(sd.networks.backbone.network) == joined(theirs)
    vae = {key: mlx_shape(tuple(value.shape)) for key, value in parts["vae"].state_dict().items()}
    assert parameter_shapes(sd.networks.vae) == vae
    assert sd.checkpoint.index.class_name == configs["model_index"]["_class_name"]
    assert sd.defaults.height == configs["unet"]["sample_size"] * 8


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_diffusers_conversion_reads_the_same_names(name):
    parts = full_size(name)
    tensors = ldm_layout.whole(ARCHITECTURES[name], parts)
    unet = single_file_utils.convert_ldm_unet_checkpoint(dict(tensors), parts["unet"].config)
    assert unet.keys() == parts["unet"].state_dict().keys()
    vae = single_file_utils.convert_ldm_vae_checkpoint(dict(tensors), parts["vae"].config)
    assert vae.keys() == parts["vae"].state_dict().keys()
    told = {"sd1": "v1", "sd2": "v2", "sd2_base": "v2", "sdxl": "xl_base", "sdxl_refiner": "xl_refiner"}[name]
    assert single_file_utils.infer_diffusers_model_type(tensors) == told


def sd1(tokenizers: Path):
    pipe = tiny.sd15()
    return pipe.__class__(
        **{**pipe.components, "tokenizer": ldm_layout.tokenizer(tokenizers), "text_encoder": encoder()},
        requires_safety_checker=False,
    )


def sd2(tokenizers: Path):
    pipe = tiny.sd21()
    changes = {
        "tokenizer": ldm_layout.tokenizer(tokenizers, "!"),
        "text_encoder": encoder(hidden_act="gelu", num_hidden_layers=2),
    }
    return pipe.__class__(**{**pipe.components, **changes}, requires_safety_checker=False)


def sdxl(tokenizers: Path):
    pipe = tiny.sdxl()
    changes = {
        "tokenizer": ldm_layout.tokenizer(tokenizers),
        "tokenizer_2": ldm_layout.tokenizer(tokenizers, "!"),
        "text_encoder": encoder(),
        "text_encoder_2": encoder(CLIPTextModelWithProjection, hidden_act="gelu", hidden_size=64, projection_dim=32),
        "unet": tiny._xl_unet(time_ids=6, context=96),
    }
    return pipe.__class__(**{**pipe.components, **changes}, add_watermarker=False)


def refiner(tokenizers: Path):
    pipe = tiny.refiner()
    changes = {
        "tokenizer_2": ldm_layout.tokenizer(tokenizers, "!"),
        "text_encoder_2": encoder(CLIPTextModelWithProjection, hidden_act="gelu"),
    }
    options = {"requires_aesthetics_score": True, "force_zeros_for_empty_prompt": False}
    return pipe.__class__(**{**pipe.components, **changes}, **options, add_watermarker=False)


def encoder(cls=CLIPTextModel, **changes):
    ids = {"vocab_size": 49408, "bos_token_id": 49406, "eos_token_id": 49407, "pad_token_id": 49407}
    return cls(tiny.text_config(**ids, **changes))


PIPELINES = {"sd1": sd1, "sd2": sd2, "sdxl": sdxl, "sdxl_refiner": refiner}


@pytest.fixture(scope="module")
def tokenizers(tmp_path_factory) -> Path:
    return ldm_layout.write_tokenizer(tmp_path_factory.mktemp("clip"))


@pytest.fixture(scope="module")
def pairs(tmp_path_factory, tokenizers):
    """Architecture -> the same tiny random model as a folder and as one file, both written by the oracle's side."""
    made = {}

    def pair(name: str) -> tuple[Path, Path]:
        if name not in made:
            place = tmp_path_factory.mktemp(name)
            folder = tiny.write(lambda: PIPELINES[name](tokenizers), place / "folder")
            parts = ("unet", "vae", "text_encoder", "text_encoder_2")
            torch.manual_seed(0)
            pipe = PIPELINES[name](tokenizers)
            modules = {part: module for part in parts if (module := getattr(pipe, part, None)) is not None}
            save_file(ldm_layout.whole(name, modules), place / "model.safetensors")
            made[name] = folder, place / "model.safetensors"
        return made[name]

    return pair


@pytest.fixture
def as_published(monkeypatch, tmp_path):
    """Puts a tiny folder's configs in the place of the published ones."""

    def put(name: str, folder: Path) -> None:
        configs = {"model_index": json.loads((folder / "model_index.json").read_text())}
        for path in folder.glob("*/*config.json"):
            configs[path.parent.name] = json.loads(path.read_text())
        for suffix in ("", "_2"):
            configs[f"tokenizer{suffix}"] = published("sdxl")[f"tokenizer{suffix}"]
        if name == "sd2":
            configs["tokenizer"] = published("sd2")["tokenizer"]
        (tmp_path / f"{name}.json").write_text(json.dumps(configs))
        monkeypatch.setattr(single_file, "PUBLISHED", tmp_path)

    return put


def picture(sd: StableDiffusion) -> np.ndarray:
    latents = None
    for latents in sd.generate_latents("a Red apple!", negative_prompt="blue", steps=2, seed=3, height=32, width=32):
        mx.eval(latents)
    return np.array(sd.decode(latents))


def open_file(path: Path, name: str, **options) -> StableDiffusion:
    return StableDiffusion(
        str(path), dtype="fp32", **{"prediction_type": "v_prediction" if name == "sd2" else None} | options
    )


def same_weights(ours, theirs) -> bool:
    ours, theirs = dict(tree_flatten(ours.parameters())), dict(tree_flatten(theirs.parameters()))
    return ours.keys() == theirs.keys() and all(mx.array_equal(ours[key], theirs[key]) for key in ours)


@pytest.mark.parametrize("name", PIPELINES)
def test_a_file_gives_exactly_the_folders_picture(pairs, as_published, name):
    folder, path = pairs(name)
    as_published(name, folder)
    ours, theirs = open_file(path, name), StableDiffusion(str(folder), dtype="fp32")
    assert same_weights(ours.networks.backbone.network, theirs.networks.backbone.network)
    assert same_weights(ours.networks.vae, theirs.networks.vae)
    assert np.array_equal(picture(ours), picture(theirs))


@pytest.mark.parametrize("name", PIPELINES)
def test_diffusers_loads_the_same_file_as_the_same_weights(pairs, name):
    folder, path = pairs(name)
    cls = getattr(diffusers, json.loads((folder / "model_index.json").read_text())["_class_name"])
    loaded = cls.from_single_file(str(path), config=str(folder), local_files_only=True)
    saved = cls.from_pretrained(folder)
    for part in ("unet", "vae", "text_encoder", "text_encoder_2"):
        if getattr(saved, part, None) is not None:
            expected, found = getattr(saved, part).state_dict(), getattr(loaded, part).state_dict()
            assert expected.keys() == found.keys()
            assert all(torch.equal(expected[key], found[key]) for key in expected)


@pytest.mark.parametrize(("name", "channels"), [("sd1", 9), ("sdxl", 9), ("sd1", 8)])
def test_a_file_that_repaints_or_edits_gives_exactly_the_folders_picture(
    pairs, as_published, tokenizers, tmp_path, name, channels
):
    as_published(name, pairs(name)[0])  # of the model that draws from text
    pipe = PIPELINES[name](tokenizers)
    torch.manual_seed(1)
    pipe.unet = type(pipe.unet).from_config({**pipe.unet.config, "in_channels": channels})
    pipe.save_pretrained(tmp_path / "folder")
    parts = ("unet", "vae", "text_encoder", "text_encoder_2")
    modules = {part: module for part in parts if (module := getattr(pipe, part, None)) is not None}
    save_file(ldm_layout.whole(name, modules), tmp_path / "edit.safetensors")
    mask = np.zeros((32, 32), np.uint8)
    mask[8:20, 8:24] = 255
    given = {"image": np.full((32, 32, 3), mask[..., None] // 2 + 40, np.uint8), "steps": 2, "seed": 3}
    given |= {"mask": mask} if channels == 9 else {}
    drawn = [
        np.asarray(StableDiffusion(str(tmp_path / made), dtype="fp32").generate("a Red apple!", **given)[0])
        for made in ("edit.safetensors", "folder")
    ]
    assert np.array_equal(*drawn)
    assert drawn[0].std() > 5


def small(path: Path, name: str = "sd1", *, without: str = "", shapes=None, **unet) -> Path:
    """A published model's file, less what begins with `without`."""
    found = shapes_of(name, **unet) | ({} if shapes is None else shapes)
    kept = {key: shape for key, shape in found.items() if not (without and key.startswith(without))}
    return ldm_layout.write_sparse(path, kept)


@pytest.mark.parametrize(
    ("name", "channels", "class_name"),
    [
        ("sd1", 9, "StableDiffusionInpaintPipeline"),
        ("sd1", 8, "StableDiffusionInstructPix2PixPipeline"),
        ("sd2", 9, "StableDiffusionInpaintPipeline"),
        ("sdxl", 9, "StableDiffusionXLInpaintPipeline"),
        ("sdxl", 8, "StableDiffusionXLInstructPix2PixPipeline"),
        ("sd2", 5, "StableDiffusionDepth2ImgPipeline"),
    ],
)
def test_editing_models_are_told_by_what_their_unet_takes(tmp_path, name, channels, class_name):
    file = read_single_file(small(tmp_path / "edit.safetensors", name, in_channels=channels))
    assert file.configs["model_index"]["_class_name"] == class_name
    assert file.configs["unet"]["in_channels"] == channels
    assert file.configs["scheduler"]["prediction_type"] == "epsilon"
    assert not file.assumed
    weights = file.weights("unet")
    with torch.device("meta"):
        theirs = diffusers.UNet2DConditionModel(**_plain(file.configs["unet"])).state_dict()
    assert {key: tuple(array.shape) for key, array in weights.items()} == {k: tuple(v.shape) for k, v in theirs.items()}


@pytest.mark.parametrize(
    ("metadata", "more", "prediction_type", "size"),
    [
        ({"modelspec.prediction_type": "v"}, {}, "v_prediction", 96),
        ({"modelspec.prediction_type": "epsilon"}, {}, "epsilon", 64),
        ({"modelspec.architecture": "stable-diffusion-v2-512"}, {}, "epsilon", 64),
        ({"modelspec.architecture": "stable-diffusion-v2-768-v"}, {}, "v_prediction", 96),
        ({}, {"v_pred": (0,)}, "v_prediction", 96),
    ],
)
def test_a_file_of_sd2_that_says_what_it_predicts_is_believed(tmp_path, metadata, more, prediction_type, size):
    path = ldm_layout.write_sparse(tmp_path / "sd2.safetensors", shapes_of("sd2") | more, metadata)
    file = read_single_file(path)
    assert (file.configs["scheduler"]["prediction_type"], file.configs["unet"]["sample_size"]) == (
        prediction_type,
        size,
    )
    assert not file.assumed


def test_a_silent_file_of_sd2_is_taken_for_v_prediction_with_a_warning_unless_one_says_otherwise(tmp_path):
    path = str(small(tmp_path / "sd2.safetensors", "sd2"))
    with pytest.warns(MlxdiffWarning, match="does not say what its UNet predicts"):
        sd = StableDiffusion(path)
    assert sd.checkpoint.scheduler["prediction_type"] == "v_prediction"
    assert sd.checkpoint.scheduler["_class_name"] == "DDIMScheduler"
    said = StableDiffusion(path, prediction_type="epsilon")
    assert said.checkpoint.scheduler["prediction_type"] == "epsilon"
    assert said.defaults.height == 512


@pytest.mark.parametrize(("step", "prediction_type"), [(875_000, "epsilon"), (110_000, "v_prediction"), (7, None)])
def test_the_last_step_of_stability_ais_own_files_is_known(tmp_path, pairs, step, prediction_type):
    tensors = load_file(pairs("sd2")[1]) | {"global_step": torch.tensor(step)}
    save_file(tensors, tmp_path / "sd2.safetensors")
    file = read_single_file(tmp_path / "sd2.safetensors")
    assert file.assumed == (prediction_type is None)
    assert file.configs["scheduler"]["prediction_type"] == (prediction_type or "v_prediction")


def test_sdxl_with_the_markers_of_v_prediction_and_zero_snr(tmp_path):
    sd = StableDiffusion(str(small(tmp_path / "xl.safetensors", "sdxl", shapes={"v_pred": (0,), "ztsnr": (0,)})))
    scheduler = sd.checkpoint.scheduler
    assert (scheduler["prediction_type"], scheduler["rescale_betas_zero_snr"]) == ("v_prediction", True)
    assert scheduler["timestep_spacing"] == "trailing"
    assert (sd.defaults.steps, sd.defaults.guidance_scale) == (50, 5.0)


def test_what_sd2_does_not_hear_changes_nothing(tmp_path, pairs, as_published):
    folder, path = pairs("sd2")
    as_published("sd2", folder)
    tensors = load_file(path)
    extra = {key.replace(".1.", ".2."): value + 1 for key, value in tensors.items() if ".resblocks.1." in key}
    assert len(extra) == 12
    extra["cond_stage_model.model.text_projection"] = torch.ones(32, 32)
    save_file(tensors | extra, tmp_path / "more.safetensors")
    ours, theirs = open_file(tmp_path / "more.safetensors", "sd2"), open_file(path, "sd2")
    assert np.array_equal(picture(ours), picture(theirs))


OTHERS = {
    "a LoRA": {"lora_unet_down_blocks_0_attentions_0_proj_in.lora_down.weight": (4, 320)},
    "a LoRA ": {"unet.down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_k.lora_A.weight": (4, 320)},
    "a ControlNet": {"control_model.time_embed.0.weight": (4, 4)},
    "SD 3 or Flux": {"model.diffusion_model.joint_blocks.0.context_block.adaLN_modulation.1.bias": (4,)},
    "a file of latents": {"latents": (1, 8, 8, 4)},
    "a textual inversion": {"emb_params": (1, 768)},
    "only a UNet": {"conv_in.weight": (320, 4, 3, 3), "time_embedding.linear_1.weight": (1280, 320)},
    "only a UNet ": {"model.diffusion_model.input_blocks.0.0.weight": (320, 4, 3, 3)},
    "only a VAE": {"decoder.conv_in.weight": (512, 4, 3, 3)},
    "only a UNet  ": {"module.model.diffusion_model.input_blocks.0.0.weight": (320, 4, 3, 3)},
    "a UNet and a VAE and no text encoder": {
        "model.diffusion_model.input_blocks.0.0.weight": (320, 4, 3, 3),
        "first_stage_model.decoder.conv_in.weight": (512, 4, 3, 3),
    },
    "a whole model under diffusers' names": {
        "unet.time_embedding.linear_1.weight": (1280, 320),
        "vae.decoder.conv_in.weight": (512, 4, 3, 3),
        "text_encoder.text_model.embeddings.token_embedding.weight": (49408, 768),
    },
    "only a text encoder": {"text_model.embeddings.token_embedding.weight": (49408, 768)},
    "no checkpoint that mlxdiff knows": {"a.b": (1,)},
}


@pytest.mark.parametrize("what", OTHERS)
def test_what_is_no_whole_checkpoint_is_called_by_its_name(tmp_path, what):
    path = ldm_layout.write_sparse(tmp_path / "x.safetensors", OTHERS[what])
    with pytest.raises(UnsupportedError, match=what.strip()):
        StableDiffusion(str(path))


STRAY = {
    "cond_stage_model.text_projection": (768, 768),  # ComfyUI
    "cond_stage_model.logit_scale": (),
    "conditioner.embedders.0.text_projection": (768, 768),  # ComfyUI
    "conditioner.embedders.0.logit_scale": (),
    "conditioner.embedders.1.model.logit_scale": (),
    "cond_stage_model.model.logit_scale": (),
    "safety_checker.concept_embeds": (17, 768),
    "embedding_manager.string_to_param_dict.*": (1, 768),
    "control_model.time_embed.0.weight": (4, 4),
    "lora_te_text_model_encoder_layers_0_mlp_fc1.alpha": (),
    "strange.weight": (1,),
}


@pytest.mark.parametrize("name", ["sd1", "sd2", "sdxl", "sdxl_refiner"])
def test_what_is_outside_the_networks_is_ignored_and_decides_nothing(tmp_path, name):
    plain = read_single_file(small(tmp_path / "plain.safetensors", name), "epsilon")
    stray = {key: shape for key, shape in STRAY.items() if key not in shapes_of(name)}
    more = read_single_file(small(tmp_path / "more.safetensors", name, shapes=stray), "epsilon")
    assert (more.configs, more.encoders, more.has_vae) == (plain.configs, plain.encoders, plain.has_vae)
    for component in ("unet", "vae", *plain.encoders):
        assert more.weights(component).keys() == plain.weights(component).keys()


@pytest.mark.parametrize("other", ["sd2", "sdxl", "sdxl_refiner"])
@pytest.mark.parametrize("name", ["sd1", "sd2", "sdxl"])
def test_another_models_whole_encoders_in_the_file_do_not_decide(tmp_path, name, other):
    encoders = {key: shape for key, shape in shapes_of(other).items() if key.startswith(("cond", "conditioner"))}
    plain = read_single_file(small(tmp_path / "plain.safetensors", name), "epsilon")
    more = {key: shape for key, shape in encoders.items() if key not in shapes_of(name)}
    both = read_single_file(small(tmp_path / "both.safetensors", name, shapes=more), "epsilon")
    assert (both.configs, both.encoders) == (plain.configs, plain.encoders)


def test_a_weight_that_is_wrapped_and_plain_is_refused_inside_the_networks_alone(tmp_path):
    outside = {"optimizer.module.step": (1,), "optimizer.step": (1,)}
    read_single_file(small(tmp_path / "x.safetensors", shapes=outside))
    inside = {"model.diffusion_model._orig_mod.out.2.bias": (4,)}
    with pytest.raises(CheckpointError, match=r"'model\.diffusion_model\.out\.2\.bias' under two names"):
        read_single_file(small(tmp_path / "y.safetensors", shapes=inside))


@pytest.mark.parametrize(
    "key", ["model.diffusion_model.more.weight", "first_stage_model.encoder.more", "cond_stage_model.transformer.more"]
)
def test_a_key_inside_a_network_that_has_no_place_is_refused(tmp_path, key):
    path = small(tmp_path / "x.safetensors", shapes={key: (1,)})
    with pytest.raises(CheckpointError, match=r"holds '(encoder\.)?more(\.weight)?', which the model has no place for"):
        StableDiffusion(str(path)).load()


@pytest.mark.parametrize(
    "wrap",
    [
        lambda key: f"module.{key}",
        lambda key: f"_orig_mod.{key}",
        lambda key: f"model.{key}",
        lambda key: f"state_dict.{key}",
        lambda key: f"module._orig_mod.model.{key}",
        lambda key: key.replace("model.diffusion_model.", "model.diffusion_model._orig_mod."),
        lambda key: key.replace("first_stage_model.", "first_stage_model.module."),
    ],
)
def test_prefixes_of_wrappers_are_stripped(tmp_path, pairs, as_published, wrap):
    folder, path = pairs("sd1")
    as_published("sd1", folder)
    wrapped = {wrap(key): tensor for key, tensor in load_file(path).items()}
    save_file(wrapped | {"optimizer.step": torch.zeros(1)}, tmp_path / "wrapped.safetensors")
    ours, theirs = open_file(tmp_path / "wrapped.safetensors", "sd1").load(), open_file(path, "sd1")
    assert same_weights(ours.networks.backbone.network, theirs.networks.backbone.network)
    assert same_weights(ours.networks.vae, theirs.networks.vae)
    assert np.array_equal(picture(ours), picture(theirs))


def test_a_file_with_float64_and_fp8_beside_the_model_gives_the_same_picture(tmp_path, pairs, as_published):
    folder, path = pairs("sd1")
    as_published("sd1", folder)
    extra = {
        "alphas_cumprod": torch.zeros(1000, dtype=torch.float64),
        "model_ema.x": torch.zeros(3).to(torch.float8_e5m2),
    }
    save_file(load_file(path) | extra, tmp_path / "more.safetensors")
    ours, theirs = open_file(tmp_path / "more.safetensors", "sd1"), open_file(path, "sd1")
    assert np.array_equal(picture(ours), picture(theirs))
    fp8 = {key: t.to(torch.float8_e4m3fn) if "time_embed" in key else t for key, t in load_file(path).items()}
    save_file(fp8, tmp_path / "fp8.safetensors")
    with pytest.raises(UnsupportedError, match=r"time_embed\.\d\.\w+' as F8_E4M3"):
        open_file(tmp_path / "fp8.safetensors", "sd1").load()


@pytest.mark.parametrize(
    "prefix", ["model.diffusion_model.output_blocks.3.1.", "cond_stage_model.transformer.text_model.f"]
)
def test_a_file_that_lacks_weights_is_refused(tmp_path, prefix):
    path = small(tmp_path / "x.safetensors", without=prefix)
    with pytest.raises(CheckpointError, match="lacks the weight"):
        StableDiffusion(str(path)).load()


def test_a_fused_projection_that_does_not_divide_is_refused(tmp_path):
    key = "cond_stage_model.model.transformer.resblocks.0.attn.in_proj_bias"
    path = small(tmp_path / "x.safetensors", "sd2", shapes={key: (3071,)})
    with pytest.raises(CheckpointError, match="no three projections"):
        StableDiffusion(str(path), prediction_type="epsilon").load()


def test_a_pickle_called_safetensors_is_refused(tmp_path):
    torch.save({"state_dict": {}}, tmp_path / "model.safetensors")
    with pytest.raises(UnsupportedError, match="is a pickle under another name"):
        StableDiffusion(str(tmp_path / "model.safetensors"))


@pytest.fixture
def other_vae(tmp_path):
    """Another tiny VAE, saved by diffusers; the folder, its one file, and the same in the original layout."""
    torch.manual_seed(7)
    vae = tiny.vae()
    vae.save_pretrained(tmp_path / "vae")
    for prefix in ("", "first_stage_model.", "module.", "model.first_stage_model."):
        tensors = ldm_layout.vae(vae.state_dict(), 2, prefix)
        save_file({key: value.contiguous() for key, value in tensors.items()}, tmp_path / f"{prefix}ldm.safetensors")
    return tmp_path


@pytest.mark.parametrize(
    "name",
    [
        "vae",
        "vae/diffusion_pytorch_model.safetensors",
        "ldm.safetensors",
        "first_stage_model.ldm.safetensors",
        "module.ldm.safetensors",
        "model.first_stage_model.ldm.safetensors",
    ],
)
def test_another_vae_takes_the_place_of_the_checkpoints(pairs, other_vae, name):
    folder, _ = pairs("sd1")
    sd = StableDiffusion(str(folder), dtype="fp32", vae=str(other_vae / name))
    torch.manual_seed(0)
    latents = torch.randn(1, 4, 8, 8)
    theirs = diffusers.AutoencoderKL.from_pretrained(other_vae / "vae")
    with torch.no_grad():
        expected = theirs.decode(latents / theirs.config.scaling_factor).sample / 2 + 0.5
    ours = np.array(sd.decode(mx.array(latents.movedim(1, -1).numpy())))
    assert np.abs(ours - expected.clamp(0, 1).movedim(1, -1).numpy()).max() < 1e-5
    assert sd.resolve(Request("a red apple", seed=1)).vae == str(other_vae / name)


def test_a_file_without_a_vae_asks_for_one(tmp_path, pairs, as_published, other_vae):
    folder, path = pairs("sd1")
    as_published("sd1", folder)
    tensors = {key: value for key, value in load_file(path).items() if not key.startswith("first_stage_model.")}
    save_file(tensors, tmp_path / "pruned.safetensors")
    with pytest.raises(UnsupportedError, match="holds no VAE"):
        open_file(tmp_path / "pruned.safetensors", "sd1").load()
    sd = open_file(tmp_path / "pruned.safetensors", "sd1", vae=str(other_vae / "ldm.safetensors")).load()
    assert picture(sd).shape == (1, 32, 32, 3)


@pytest.mark.parametrize("vae", ["none.safetensors", "nobody", "unet.safetensors", "vae.pt"])
def test_a_vae_that_is_none_is_refused(tmp_path, pairs, vae):
    ldm_layout.write_sparse(tmp_path / "unet.safetensors", OTHERS["only a UNet"])
    with pytest.raises(MlxdiffError):
        StableDiffusion(str(pairs("sd1")[0]), vae=str(tmp_path / vae)).load()
