"""Which files of a repository are fetched: on listings as real ones are, and always what `checkpoint` would load."""

from __future__ import annotations

import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mlxdiff.checkpoint.detect import choose_weights
from mlxdiff.errors import CheckpointError, MlxdiffError, UnsupportedError
from mlxdiff.hub.selection import choose_component, choose_files

SD15_LISTING = """
.gitattributes README.md model_index.json v1-5-pruned.ckpt v1-5-pruned.safetensors v1-5-pruned-emaonly.ckpt
feature_extractor/preprocessor_config.json safety_checker/config.json safety_checker/model.safetensors
safety_checker/model.fp16.safetensors safety_checker/pytorch_model.bin safety_checker/flax_model.msgpack
scheduler/scheduler_config.json scheduler/scheduler_config-checkpoint.json text_encoder/config.json
text_encoder/model.safetensors text_encoder/model.fp16.safetensors text_encoder/pytorch_model.bin
text_encoder/pytorch_model.fp16.bin text_encoder/flax_model.msgpack text_encoder/openvino_model.bin
text_encoder/openvino_model.xml text_encoder/model.onnx tokenizer/merges.txt tokenizer/vocab.json
tokenizer/special_tokens_map.json tokenizer/tokenizer_config.json unet/config.json
unet/diffusion_pytorch_model.safetensors unet/diffusion_pytorch_model.fp16.safetensors
unet/diffusion_pytorch_model.non_ema.safetensors unet/diffusion_pytorch_model.bin
unet/diffusion_flax_model.msgpack vae/config.json vae/diffusion_pytorch_model.safetensors
vae/diffusion_pytorch_model.fp16.safetensors vae/diffusion_pytorch_model.bin
"""
SD15 = SD15_LISTING.split()
SDXL_TURBO_LISTING = """
model_index.json LICENSE.md sd_xl_turbo_1.0.safetensors sd_xl_turbo_1.0_fp16.safetensors output.png
scheduler/scheduler_config.json text_encoder/config.json text_encoder/model.fp16.safetensors
text_encoder_2/config.json text_encoder_2/model.fp16.safetensors tokenizer/merges.txt tokenizer/vocab.json
tokenizer_2/merges.txt tokenizer_2/vocab.json unet/config.json unet/diffusion_pytorch_model.fp16.safetensors
vae/config.json vae/diffusion_pytorch_model.fp16.safetensors vae/diffusion_pytorch_model.safetensors
vae_1_0/config.json vae_1_0/diffusion_pytorch_model.safetensors
"""
SDXL_TURBO = SDXL_TURBO_LISTING.split()


def test_plain_weights_go_before_others():
    assert sorted(choose_files(SD15, None, "it")) == [
        "model_index.json",
        "scheduler/scheduler_config.json",
        "text_encoder/config.json",
        "text_encoder/model.safetensors",
        "tokenizer/merges.txt",
        "tokenizer/special_tokens_map.json",
        "tokenizer/tokenizer_config.json",
        "tokenizer/vocab.json",
        "unet/config.json",
        "unet/diffusion_pytorch_model.safetensors",
        "vae/config.json",
        "vae/diffusion_pytorch_model.safetensors",
    ]


def test_a_variant_is_taken_for_every_component():
    weights = [name for name in choose_files(SD15, "fp16", "it") if name.endswith(".safetensors")]
    assert sorted(weights) == [
        "text_encoder/model.fp16.safetensors",
        "unet/diffusion_pytorch_model.fp16.safetensors",
        "vae/diffusion_pytorch_model.fp16.safetensors",
    ]


def test_half_precision_is_taken_where_there_is_nothing_else():
    weights = [name for name in choose_files(SDXL_TURBO, None, "it") if name.endswith(".safetensors")]
    assert sorted(weights) == [
        "text_encoder/model.fp16.safetensors",
        "text_encoder_2/model.fp16.safetensors",
        "unet/diffusion_pytorch_model.fp16.safetensors",
        "vae/diffusion_pytorch_model.safetensors",
    ]


def test_a_variant_that_a_component_lacks_is_an_error():
    with pytest.raises(
        CheckpointError, match=r"it/vae holds neither .*non_ema.*, but diffusion_pytorch_model\.fp16\.safetensors"
    ):
        choose_files(SD15, "non_ema", "it")


@pytest.mark.parametrize("component", ["unet", "vae", "scheduler"])
def test_what_is_no_stable_diffusion_is_unsupported(component):
    with pytest.raises(UnsupportedError, match=f"no {component}"):
        choose_files([name for name in SD15 if not name.startswith(component)], None, "it")


def test_a_repository_of_one_file_is_unsupported():
    with pytest.raises(UnsupportedError, match=r"model_index\.json"):
        choose_files(["README.md", "v1-5-pruned.safetensors"], None, "it")


def test_pickles_alone_are_unsupported():
    with pytest.raises(UnsupportedError, match="pickled"):
        choose_files([name for name in SD15 if not name.endswith(".safetensors")], None, "it")


@pytest.mark.parametrize("gone", ["tokenizer/vocab.json", "tokenizer/merges.txt", "unet/config.json"])
def test_a_component_without_its_files_is_an_error(gone):
    with pytest.raises(MlxdiffError, match=gone.split("/")[0]):
        choose_files([name for name in SD15 if name != gone], None, "it")


SHARDED = [
    ("{stem}.safetensors.index.json", "{stem}-0000{i}-of-00003.safetensors", None),
    ("{stem}.safetensors.index.fp16.json", "{stem}.fp16-0000{i}-of-00003.safetensors", "fp16"),
    ("{stem}.fp16.safetensors.index.json", "{stem}-0000{i}-of-00003.fp16.safetensors", "fp16"),
]


@pytest.mark.parametrize(("index", "shard", "variant"), SHARDED)
@pytest.mark.parametrize("stem", ["diffusion_pytorch_model", "model"])
def test_shards_come_with_their_index(stem, index, shard, variant):
    index, shards = index.format(stem=stem), [shard.format(stem=stem, i=i) for i in (1, 2, 3)]
    others = ["diffusion_pytorch_model-00001-of-00002.bin", "model.fp32-00001-of-00001.safetensors"]
    names = ["config.json", index, *shards, *others]
    for asked in {variant, None}:
        assert choose_component("unet", names, asked, "it") == ["config.json", index, *shards]
    with pytest.raises(CheckpointError, match="complete"):
        choose_component("unet", [name for name in names if name != shards[1]], variant, "it")


def test_shards_of_the_preferred_precision_must_be_complete_even_beside_another():
    index, shard, _ = (name.format(stem="model", i=1) if name else "" for name in SHARDED[0])
    with pytest.raises(CheckpointError, match="complete"):
        choose_component("unet", ["config.json", index, shard, "model.fp16.safetensors"], None, "it")


NAMES = [
    f"{stem}{variant}.safetensors" for stem in ("model", "diffusion_pytorch_model") for variant in ("", ".fp16", ".x")
]
INDEXES = [f"model.safetensors.index{variant}.json" for variant in ("", ".fp16", ".x")] + [
    "model.x.safetensors.index.json"
]
SHARDS = [f"model{variant}-0000{i}-of-00002.safetensors" for variant in ("", ".fp16", ".x") for i in (1, 2)]


@settings(max_examples=400, deadline=None)
@given(
    names=st.sets(st.sampled_from([*NAMES, *INDEXES, "pytorch_model.bin", "model.onnx"])),
    variant=st.sampled_from([None, "fp16", "x"]),
)
def test_what_is_fetched_is_what_is_loaded(names, variant):
    names |= set(SHARDS)
    try:
        expected = choose_weights(names, variant, "it")
    except MlxdiffError as error:
        with pytest.raises(type(error)):
            choose_component("unet", {"config.json", *names}, variant, "it")
        return
    chosen = choose_component("unet", {"config.json", *names}, variant, "it")
    assert chosen[:2] == ["config.json", expected]
    assert all(re.search(r"-of-00002", name) for name in chosen[2:])
    assert len(chosen) == (4 if expected.endswith(".json") else 2)
