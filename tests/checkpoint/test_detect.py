"""Finding a model's parts and their weight files, in folders sound, old and hostile."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

import mlxdiff
from mlxdiff import StableDiffusion
from mlxdiff.checkpoint.detect import Component, read_json, read_model_index, weight_files
from mlxdiff.errors import CheckpointError, ModelNotFoundError, UnsupportedError

EMOJI = Path(mlxdiff.__file__).parent / "assets/emoji"


def touch(folder: Path, *names: str) -> Path:
    folder.mkdir(exist_ok=True)
    for name in names:
        (folder / name).write_bytes(b"")
    return folder


def chosen(folder: Path, variant: str | None = None) -> list[str]:
    return [path.name for path in weight_files(folder, variant).paths]


# read_json


def test_an_object_is_read(tmp_path):
    path = tmp_path / "config.json"
    path.write_text('{"a": [1, 2.5, null, "ü"], "b": -Infinity}', encoding="utf-8")
    assert read_json(path) == {"a": [1, 2.5, None, "ü"], "b": float("-inf")}  # scheduler configs do say -Infinity


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is not JSON"),
        (b"{", "is not JSON"),
        (b"\xff\xfe{}", "is not JSON"),
        (b"[1]", "holds a JSON list"),
        (b"null", "holds a JSON NoneType"),
        (b'{"a": ' + b"[" * 200_000 + b"]" * 200_000 + b"}", "too deeply nested"),
        (b'{"a": ' + b"9" * 10_000 + b"}", "is not JSON"),
        (b" " * (9 * 2**20), "larger than 8 MiB"),
    ],
    ids=["empty", "cut", "binary", "list", "null", "deep", "huge number", "huge"],
)
def test_anything_else_is_a_checkpoint_error(tmp_path, content, message):
    path = tmp_path / "config.json"
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match=message) as caught:
        read_json(path)
    assert str(path) in caught.value.problem


@pytest.mark.parametrize("make", [lambda _: None, Path.mkdir], ids=["missing", "folder"])
def test_what_cannot_be_opened_is_a_checkpoint_error(tmp_path, make):
    make(tmp_path / "config.json")
    with pytest.raises(CheckpointError, match="cannot be read"):
        read_json(tmp_path / "config.json")


# read_model_index


def test_the_built_in_model_lists_its_parts_without_the_null_ones():
    index = read_model_index(EMOJI)
    assert index.class_name == "StableDiffusionPipeline"
    assert set(index.components) == {"scheduler", "text_encoder", "tokenizer", "unet", "vae"}
    assert index.components["unet"] == Component("diffusers", "UNet2DConditionModel")
    assert index.options == {"requires_safety_checker": False}


@pytest.mark.parametrize(
    ("prepare", "message"),
    [
        (lambda _: None, "There is no folder"),
        (lambda folder: folder.write_text("x"), "is a file"),
        (lambda folder: touch(folder, "README.md"), "has no model_index.json"),
        (lambda folder: touch(folder, "config.json", "model.safetensors"), "one component"),
    ],
    ids=["missing", "file", "other folder", "component"],
)
def test_a_folder_that_is_no_model_says_so(tmp_path, prepare, message):
    folder = tmp_path / "model"
    prepare(folder)
    with pytest.raises(ModelNotFoundError, match=message):
        read_model_index(folder)


@pytest.mark.parametrize(
    "content",
    [
        "{",
        "{}",
        '{"_class_name": 1}',
        '{"_class_name": "P", "unet": ["diffusers"]}',
        '{"_class_name": "P", "unet": ["diffusers", null]}',
        '{"_class_name": "P", "unet": ["diffusers", "U", "V"]}',
        '{"_class_name": "P", "../../etc": ["diffusers", "UNet2DConditionModel"]}',
    ],
)
def test_a_broken_model_index_is_a_checkpoint_error(tmp_path, content):
    (tmp_path / "model_index.json").write_text(content)
    with pytest.raises(CheckpointError):
        read_model_index(tmp_path)


# weight_files


@pytest.mark.parametrize("stem", ["model", "diffusion_pytorch_model"])
@pytest.mark.parametrize(
    ("endings", "variant", "expected"),
    [
        ([".safetensors"], None, ".safetensors"),
        ([".safetensors", ".fp16.safetensors"], None, ".safetensors"),
        ([".safetensors", ".fp16.safetensors"], "fp16", ".fp16.safetensors"),
        ([".fp16.safetensors"], None, ".fp16.safetensors"),
        ([".non_ema.safetensors", ".fp16.safetensors"], None, ".fp16.safetensors"),
        ([".bf16.safetensors"], None, ".bf16.safetensors"),
        ([".safetensors", ".bin"], None, ".safetensors"),
    ],
)
def test_the_file_that_is_meant_is_chosen(tmp_path, stem, endings, variant, expected):
    touch(tmp_path, "config.json", *(stem + ending for ending in endings))
    assert chosen(tmp_path, variant) == [stem + expected]


SHARDS = {
    "plain": (None, "model.safetensors.index.json", "model-0000{}-of-00002.safetensors"),
    "transformers": ("fp16", "model.safetensors.index.fp16.json", "model.fp16-0000{}-of-00002.safetensors"),
    "old diffusers": (
        "fp16",
        "diffusion_pytorch_model.safetensors.index.fp16.json",
        "diffusion_pytorch_model-0000{}-of-00002.fp16.safetensors",
    ),
    "variant first": (
        "fp16",
        "diffusion_pytorch_model.fp16.safetensors.index.json",
        "diffusion_pytorch_model.fp16-0000{}-of-00002.safetensors",
    ),
}


@pytest.mark.parametrize("style", SHARDS)
def test_shards_are_found_through_their_index(tmp_path, style):
    variant, index, shard = SHARDS[style]
    names = [shard.format(i) for i in (1, 2)]
    weight_map = {"a": names[0], "b": names[1], "c": names[0]}
    touch(tmp_path, *names)
    (tmp_path / index).write_text(json.dumps({"weight_map": weight_map}))
    for asked in {variant, None}:
        found = weight_files(tmp_path, asked)
        assert [path.name for path in found.paths] == names
        assert found.index == weight_map


def test_a_missing_variant_names_those_that_are_there(tmp_path):
    touch(tmp_path, "model.safetensors", "model.fp16.safetensors")
    with pytest.raises(CheckpointError, match=r"model\.bf16\.safetensors.*but model\.fp16\.safetensors, model\.safe"):
        weight_files(tmp_path, "bf16")


def test_several_unknown_variants_are_not_guessed_between(tmp_path):
    touch(tmp_path, "model.ema.safetensors", "model.other.safetensors")
    with pytest.raises(CheckpointError, match=r"model\.ema\.safetensors, model\.other\.safetensors"):
        weight_files(tmp_path)
    assert chosen(tmp_path, "ema") == ["model.ema.safetensors"]


@pytest.mark.parametrize("name", ["pytorch_model.bin", "diffusion_pytorch_model.bin", "model.ckpt", "v1-5.pt"])
def test_pickles_alone_are_refused_with_a_way_out(tmp_path, name):
    with pytest.raises(UnsupportedError, match="pickled") as caught:
        weight_files(touch(tmp_path, "config.json", name))
    assert "safetensors" in caught.value.remedy


@pytest.mark.parametrize(
    "names",
    [[], ["config.json"], ["model-00001-of-00002.safetensors"], ["other.safetensors"], ["model.safetensors.txt"]],
    ids=str,
)
def test_no_weights_names_what_was_sought(tmp_path, names):
    with pytest.raises(CheckpointError, match=r"model\.safetensors nor diffusion_pytorch_model\.safetensors"):
        weight_files(touch(tmp_path, *names))


def test_a_folder_that_is_not_there_is_a_checkpoint_error(tmp_path):
    with pytest.raises(CheckpointError, match="cannot be read"):
        weight_files(tmp_path / "unet")


def test_a_folder_of_links_is_read_as_the_hub_cache_lays_it_out(tmp_path):
    blobs, snapshot = touch(tmp_path / "blobs", "0a1b"), touch(tmp_path / "snapshot")
    (snapshot / "model.safetensors").symlink_to(Path("../blobs/0a1b"))
    assert chosen(snapshot) == ["model.safetensors"]
    assert weight_files(snapshot).paths[0].resolve() == blobs / "0a1b"


@pytest.mark.parametrize(
    "name",
    [
        "../secret.safetensors",
        "/etc/secret.safetensors",
        "sub/secret.safetensors",
        "..\\secret.safetensors",
        "C:secret.safetensors",
        "secret.safetensors\0",
        "..",
        "",
        "weights.bin",
        7,
        None,
    ],
)
def test_an_index_never_leads_out_of_its_folder(tmp_path, name):
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"a": name}}))
    with pytest.raises(CheckpointError, match="no safetensors file beside it"):
        weight_files(tmp_path)


@pytest.mark.parametrize("content", ["[]", "{}", '{"weight_map": []}', '{"weight_map": {}}', "{"])
def test_a_broken_index_is_a_checkpoint_error(tmp_path, content):
    (tmp_path / "model.safetensors.index.json").write_text(content)
    with pytest.raises(CheckpointError):
        weight_files(tmp_path)


@pytest.mark.parametrize(
    "name", ["unet/config.json", "tokenizer/vocab.json", "tokenizer/merges.txt", "model_index.json"]
)
def test_a_pointer_or_page_in_the_place_of_a_config_is_named(tmp_path, name):
    folder = shutil.copytree(EMOJI, tmp_path / "model", symlinks=True)
    path = folder / name
    if name.startswith("tokenizer"):
        (folder / "tokenizer/tokenizer.json").unlink(missing_ok=True)
        for other in ("vocab.json", "merges.txt"):
            (folder / "tokenizer" / other).write_text("{}" if other == "vocab.json" else "")
    path.unlink(missing_ok=True)
    path.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 1\n")
    with pytest.raises(CheckpointError, match="is a Git LFS pointer"):
        StableDiffusion(str(folder)).load()
    path.write_text("<!doctype html><html></html>")
    with pytest.raises(CheckpointError, match=r"is a web page \(HTML\)"):
        StableDiffusion(str(folder)).load()


def test_a_servers_answer_in_the_place_of_a_config_is_named(tmp_path):
    path = tmp_path / "config.json"
    path.write_text('{"error": "Repository not found"}')
    with pytest.raises(CheckpointError, match=r"is a server's error message .'Repository not found'"):
        read_json(path)
