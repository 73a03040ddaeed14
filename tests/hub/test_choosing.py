"""What a repository is, on the file lists that public ones have."""

from __future__ import annotations

import pytest
from public_repositories import (
    CANNY,
    CONCEPT,
    FACE_ID,
    FT_MSE,
    IP_ADAPTER,
    LCM_LORA,
    LIGHTNING,
    PICKLED_UPSCALER,
    SD15_EMBEDDING,
    TAESD,
    UPSCALER,
    WEIGHTS,
)

from mlxdiff.errors import CheckpointError, ModelNotFoundError, UnsupportedError
from mlxdiff.hub.choosing import SeveralError, choose, encoder_of
from mlxdiff.hub.reference import can_name_a_file


def chosen(names, file=None, variant=None, class_name=None):
    def read(path):
        assert path in names
        return {} if class_name is None else {"_class_name": class_name}

    return choose(names, file, variant, "owner/name", read)


@pytest.mark.parametrize(
    ("names", "class_name", "kind", "files", "file"),
    [
        (LCM_LORA, None, "lora", ["pytorch_lora_weights.safetensors"], "pytorch_lora_weights.safetensors"),
        (CANNY, "ControlNetModel", "control", ["config.json", WEIGHTS], None),
        (CANNY, "T2IAdapter", "control", ["config.json", WEIGHTS], None),
        (TAESD, "AutoencoderTiny", "vae", ["config.json", WEIGHTS], None),
        (FT_MSE, "AutoencoderKL", "vae", ["config.json", WEIGHTS], None),
        (SD15_EMBEDDING, None, "embedding", ["learned_embeds.safetensors"], "learned_embeds.safetensors"),
        (UPSCALER, None, None, ["RealESRGAN_x4plus.safetensors"], "RealESRGAN_x4plus.safetensors"),
        (FACE_ID, None, None, ["ip-adapter-faceid_sd15_lora.safetensors"], "ip-adapter-faceid_sd15_lora.safetensors"),
    ],
    ids=["lcm-lora", "canny", "t2i", "taesd", "ft-mse", "embedding", "upscaler", "face-id"],
)
def test_a_repository_is_what_its_files_say(names, class_name, kind, files, file):
    choice = chosen(names, class_name=class_name)
    assert (choice.kind, sorted(choice.files), choice.file) == (kind, sorted(files), file)


def test_a_component_comes_in_one_precision():
    names = [*FT_MSE, "diffusion_pytorch_model.fp16.safetensors"]
    assert chosen(names, class_name="AutoencoderKL").files == ("config.json", WEIGHTS)
    assert chosen(names, variant="fp16", class_name="AutoencoderKL").files[1:] == (
        "diffusion_pytorch_model.fp16.safetensors",
    )
    only = [name for name in names if name != WEIGHTS]
    assert chosen(only, class_name="AutoencoderKL").files[1:] == ("diffusion_pytorch_model.fp16.safetensors",)
    with pytest.raises(CheckpointError, match=r"bf16\.safetensors, but"):
        chosen(names, variant="bf16", class_name="AutoencoderKL")


@pytest.mark.parametrize(("names", "number"), [(LIGHTNING, 11), (IP_ADAPTER, 10)], ids=["lightning", "ip-adapter"])
def test_of_several_files_one_has_to_be_named(names, number):
    with pytest.raises(SeveralError) as caught:
        chosen(names)
    assert len(caught.value.files) == number
    assert not any("image_encoder" in file for file in caught.value.files)
    assert all(file in caught.value.problem for file in caught.value.files[:10])
    one = caught.value.files[0]
    assert caught.value.remedy.endswith(f"mlxdiff pull owner/name/{one}")
    assert one in chosen(names, one).files


def test_a_file_that_is_named_comes_alone():
    file = "sdxl_lightning_4step_lora.safetensors"
    assert chosen(LIGHTNING, file).files == (file,)
    assert chosen(TAESD, "taesd_decoder.safetensors").files == ("taesd_decoder.safetensors",)
    with pytest.raises(ModelNotFoundError, match=r"has no file 'x\.safetensors'"):
        chosen(LIGHTNING, "x.safetensors")


def test_a_component_s_weights_come_with_their_config():
    names = [f"canny/{name}" for name in FT_MSE]
    choice = chosen(names, f"canny/{WEIGHTS}", class_name="ControlNetModel")
    assert (choice.kind, choice.files) == ("control", ("canny/config.json", f"canny/{WEIGHTS}"))
    assert chosen(names, f"canny/{WEIGHTS}", class_name="UNet2DConditionModel").files == (f"canny/{WEIGHTS}",)


@pytest.mark.parametrize(
    ("adapter", "encoder"),
    [
        ("models/ip-adapter_sd15.safetensors", "models"),
        ("models/ip-adapter-plus-face_sd15.safetensors", "models"),
        ("models/ip-adapter_sd15_vit-G.safetensors", "sdxl_models"),
        ("sdxl_models/ip-adapter_sdxl.safetensors", "sdxl_models"),
        ("sdxl_models/ip-adapter-plus_sdxl_vit-h.safetensors", "models"),
    ],
)
def test_an_ip_adapter_comes_with_the_image_encoder_that_it_was_trained_on(adapter, encoder):
    """As the table in that repository's README says: ViT-H for all but ip-adapter_sdxl and the vit-G one."""
    choice = chosen(IP_ADAPTER, adapter)
    folder = f"{encoder}/image_encoder"
    assert encoder_of(adapter) == folder
    assert (choice.kind, choice.file) == ("ip_adapter", adapter)
    assert choice.files == (f"{folder}/config.json", f"{folder}/model.safetensors", adapter)


@pytest.mark.parametrize("names", [CONCEPT, PICKLED_UPSCALER, [*CONCEPT, "x.onnx"]])
def test_pickles_alone_are_refused_with_the_way_to_convert_them(names):
    with pytest.raises(UnsupportedError, match="holds only pickles") as caught:
        chosen(names)
    assert "safetensors.torch.save_file" in caught.value.remedy


def test_a_component_of_which_there_are_only_pickles_is_refused():
    with pytest.raises(UnsupportedError, match="holds only pickles"):
        chosen([name for name in CANNY if not name.endswith(".safetensors")], class_name="ControlNetModel")


def test_an_image_encoder_is_known_by_transformers_class():
    names = ["README.md", "config.json", "model.safetensors", "pytorch_model.bin"]

    def found(architectures):
        return choose(names, None, None, "owner/name", lambda _: {"architectures": architectures})

    encoder = found(["CLIPVisionModelWithProjection"])
    assert (encoder.kind, encoder.files) == ("image_encoder", ("config.json", "model.safetensors"))
    for others in (["CLIPModel"], [1], [], "CLIPVisionModelWithProjection"):
        with pytest.raises(UnsupportedError):
            found(others)


def test_a_component_that_is_no_part_is_named():
    with pytest.raises(UnsupportedError, match="class 'UNet2DConditionModel'"):
        chosen(FT_MSE, class_name="UNet2DConditionModel")


def test_a_config_of_another_library_is_none_of_a_component():
    choice = chosen(["config.json", "adapter.safetensors"])
    assert (choice.kind, choice.files) == (None, ("adapter.safetensors",))


def test_a_model_of_another_library_is_not_taken_for_a_part():
    with pytest.raises(UnsupportedError, match=r"no model_index\.json"):
        chosen(["config.json", "model.safetensors", "tokenizer.json"])


def test_names_that_can_name_no_file_are_never_chosen():
    names = ["a\u202eb.safetensors", "con:1.safetensors", " x.safetensors", "ok.safetensors"]
    assert chosen(names).files == ("ok.safetensors",)
    with pytest.raises(UnsupportedError):
        chosen(names[:3])
    with pytest.raises(SeveralError) as caught:
        chosen([*names, *(f"{i}.safetensors" for i in range(40))])
    assert all(map(can_name_a_file, caught.value.files))
    assert "and 29 more" in caught.value.problem
