"""Parts by name and by repository, in pictures: rendered and recorded as the same file is by its path."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import part_files
import pytest
from huggingface_hub import constants
from repositories import cached

from mlxdiff import StableDiffusion, hub
from mlxdiff.errors import UnsupportedError
from mlxdiff.hashing import content_hash

VAE = Path(__file__).parents[1] / "src" / "mlxdiff" / "assets" / "emoji" / "vae"
QUICK = {"steps": 1, "seed": 3, "height": 64, "width": 64, "guidance_scale": 1}


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    return tmp_path / "hub"


def test_a_vae_of_the_hub_decodes_and_is_recorded(cache):
    files = {path.name: path.read_bytes() for path in VAE.iterdir()}
    folder = cached(cache, files, name="owner/vae")
    (by_name,) = StableDiffusion("emoji", vae="owner/vae").generate("an apple", **QUICK)
    (own,) = StableDiffusion("emoji").generate("an apple", **QUICK)
    assert np.array_equal(np.asarray(by_name), np.asarray(own))
    assert '"vae":"owner/vae"' in by_name.info["mlxdiff"]
    assert f'"owner/vae":"{content_hash(folder)}"' in by_name.info["mlxdiff"]


def test_an_embedding_of_the_store_is_its_file(tmp_path):
    sd = StableDiffusion("emoji")
    width = sd.encode_prompt("a").context.shape[-1]
    path = part_files.write(tmp_path / "worm.safetensors", part_files.file_of({"emb_params": (2, width)}, None, 0.5))
    (by_path,) = sd.generate("a worm", embedding=str(path), **QUICK)
    hub.add_part(path)
    (by_name,) = sd.generate("a worm", embedding="worm", **QUICK)
    assert np.array_equal(np.asarray(by_path), np.asarray(by_name))
    assert f'"worm":"{content_hash(path)}"' in by_name.info["mlxdiff"]
    assert 'TI hashes: "worm: ' in by_name.info["parameters"]


def test_a_lora_given_as_a_vae_is_refused(cache):
    cached(cache, {"pytorch_lora_weights.safetensors": part_files.lora()}, name="owner/lora")
    with pytest.raises(UnsupportedError, match=r"owner/lora is a LoRA, not a VAE\. Use it as --lora owner/lora"):
        StableDiffusion("emoji", vae="owner/lora")
