"""The hashes in A1111's text: the digits that sha256 gives, where A1111's and Civitai's readers look for them."""

from __future__ import annotations

import hashlib
import json
import re
import shutil
from dataclasses import dataclass

import part_files
import pytest
import web_ui
from huggingface_hub import constants
from repositories import cached

from mlxdiff import hub, named_files
from mlxdiff.metadata import changed_files, request_from_file
from mlxdiff.metadata.parameters import parameters_text, parse_parameters
from mlxdiff.metadata.short_hashes import short_hashes
from mlxdiff.request import Embedding, Request
from mlxdiff.request.declarations import PartReference, setting
from mlxdiff.request.structured import Structured

WORM = part_files.tensors(emb_params=(2, 32))
VAE = part_files.tensors(decoder__conv_in__weight=(2, 2, 3, 3))
MODEL = part_files.tensors(a__b=(2, 2))


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


@dataclass(frozen=True)
class Lora:
    """A structured setting as one of LoRAs is declared."""

    ref: str = setting(PartReference("lora"), "A LoRA.", default="")


@dataclass(frozen=True)
class WithLoras(Request):
    """A request that has LoRAs too."""

    lora: tuple[Lora, ...] | None = setting(Structured(Lora), "LoRAs.", group="Adapters")


@pytest.fixture
def files(tmp_path, monkeypatch):
    monkeypatch.setenv("MLXDIFF_EMBEDDINGS", str(tmp_path))
    part_files.write(tmp_path / "worm.safetensors", WORM)
    part_files.write(tmp_path / "ft-mse.safetensors", VAE)
    part_files.write(tmp_path / "sd.safetensors", MODEL)
    return tmp_path


def test_a1111_reads_the_hashes_of_what_is_in_single_files(files):
    request = Request(
        "a worm",
        steps=4,
        seed=1,
        width=64,
        height=64,
        model=str(files / "sd.safetensors"),
        vae=str(files / "ft-mse.safetensors"),
        embedding=(Embedding("worm"),),
    )
    text = parameters_text(request)
    read = web_ui.parse(text)
    assert read["Model hash"] == sha256(MODEL)[:10]
    assert (read["VAE"], read["VAE hash"]) == ("ft-mse.safetensors", sha256(VAE)[:10])
    assert read["TI hashes"] == f"worm: {sha256(WORM)[:12]}"
    assert (read["Steps"], read["Seed"], read["Model"], read["Size-1"]) == ("4", "1", "sd", "64")
    civitai = json.loads(re.search(r", Hashes: ({[^}]+})$", text)[1])
    assert civitai == {"model": sha256(MODEL)[:10], "vae": sha256(VAE)[:10], "embed:worm": sha256(WORM)[:10]}
    assert str(files) not in text, "folders are private"


def test_a_lora_is_known_by_the_data_behind_its_header(files, monkeypatch):
    monkeypatch.setenv("MLXDIFF_LORAS", str(files))
    style = part_files.lora(fill=1)
    part_files.write(files / "ink: style, v2.safetensors", style)
    request = WithLoras("x", lora=(Lora("ink: style, v2"), Lora("gone")))
    data = style[8 + int.from_bytes(style[:8], "little") :]
    found = short_hashes(request)
    assert found.values == {"Lora hashes": f"ink style v2: {sha256(data)[:12]}"}
    assert json.loads(found.civitai or "") == {"lora:ink style v2": sha256(style)[:10]}
    assert hub.find_by_hash("lora", sha256(data)[:12]) == files / "ink: style, v2.safetensors"


def test_a_lora_of_the_hub_has_its_repository_s_name(tmp_path, monkeypatch):
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    cached(tmp_path, {"pytorch_lora_weights.safetensors": part_files.lora()}, name="owner/ink-style")
    found = short_hashes(WithLoras("x", lora=(Lora("owner/ink-style@main"),)))
    assert found.values["Lora hashes"].startswith("ink-style: ")


def test_a_text_without_single_files_has_no_hashes():
    text = parameters_text(Request("x", model="emoji", steps=2, vae="/no/such.safetensors"))
    assert "ash" not in text
    assert text.endswith("Version: " + text.rpartition("Version: ")[2])
    assert short_hashes(Request("x", model="no/such", embedding=(Embedding("gone"),))).values == {}


def test_mlxdiff_reads_its_own_hashes_back(files, recwarn):
    request = Request("a worm", steps=4, seed=1, model=str(files / "sd.safetensors"))
    parsed = parse_parameters(parameters_text(request), lambda name: f"found/{name}")
    assert (parsed.model, parsed.steps) == ("found/sd", 4)
    assert not [str(warning.message) for warning in recwarn if "ash" in str(warning.message)]


def test_a_part_that_changed_is_noticed_by_the_name_that_finds_it(files):
    request = Request("x", vae=str(files / "ft-mse.safetensors"), embedding=(Embedding("worm"),), image="gone.png")
    hashes = {file.name: file.digest() for file in named_files.named_files(request) if file.setting != "image"}
    assert set(hashes) == {"worm", request.vae}
    recorded = Request.from_dict({**request.values(), "hashes": {**hashes, "gone.png": "0" * 64, "other": "1" * 64}})
    assert changed_files(recorded) == []
    part_files.write(files / "worm.safetensors", part_files.tensors(emb_params=(3, 32)))
    assert changed_files(recorded) == ["worm"]
    assert changed_files(recorded, {"embedding"}) == []
    shutil.copy(files / "worm.safetensors", files / "ft-mse.safetensors")
    assert changed_files(recorded) == [request.vae, "worm"]
    (files / "worm.safetensors").unlink()
    assert changed_files(recorded) == [request.vae]
    path = files / "recipe.json"
    path.write_text(recorded.to_json())
    with pytest.warns(UserWarning, match=r"ft-mse\.safetensors has changed since"):
        request_from_file(path)


def test_a_part_of_the_cache_that_changed_is_noticed(tmp_path, monkeypatch):
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    folder = cached(tmp_path, part_files.component("AutoencoderKL"), name="owner/vae")
    request = Request("x", vae="owner/vae")
    (file,) = named_files.named_files(request)
    recorded = Request.from_dict({**request.values(), "hashes": {"owner/vae": file.digest()}})
    assert (file.kind, file.find()) == ("vae", folder)
    assert changed_files(recorded) == []
    (folder / "config.json").unlink()
    (folder / "config.json").write_text('{"_class_name": "AutoencoderKL", "new": 1}')
    assert changed_files(recorded) == ["owner/vae"]
