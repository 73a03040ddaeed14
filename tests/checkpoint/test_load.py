"""Filling modules from the files that diffusers and transformers write, old and new, and refusing what does not fit."""

from __future__ import annotations

import json
import random
import subprocess
import sys
import time
from pathlib import Path

import mlx.core as mx
import mlx.nn as nn
import numpy as np
import pytest
import tiny
import torch
from mlx.utils import tree_flatten
from safetensors.torch import load_file, save_file
from torch_weights import parameter_shapes
from transformers import CLIPTextModel as TorchCLIP
from transformers import CLIPTextModelWithProjection

import mlxdiff
from mlxdiff.checkpoint.header import read_header
from mlxdiff.checkpoint.load import load_component
from mlxdiff.checkpoint.rename import OLD_VAE_ATTENTION, TEXT_MODEL_PREFIX
from mlxdiff.errors import CheckpointError, MlxdiffError, UnsupportedError
from mlxdiff.models.clip import CLIPTextConfig, CLIPTextModel
from mlxdiff.models.vae import AutoencoderKL, VAEConfig

EMOJI = Path(mlxdiff.__file__).parent / "assets/emoji"
WEIGHTS = "diffusion_pytorch_model.safetensors"


def new_vae(folder: Path) -> AutoencoderKL:
    return AutoencoderKL(VAEConfig.from_dict(json.loads((folder / "config.json").read_text())))


def new_clip(folder: Path, with_projection: bool = False) -> CLIPTextModel:
    return CLIPTextModel(CLIPTextConfig.from_dict(json.loads((folder / "config.json").read_text())), with_projection)


def check(module: nn.Module, state: dict[str, torch.Tensor], dtype: mx.Dtype = mx.float32) -> None:
    """The module holds torch's weights, all of them and exactly."""
    ours = dict(tree_flatten(module.parameters()))
    state = {name.removeprefix("text_model."): tensor for name, tensor in state.items()}
    assert set(ours) == set(state)
    for name, tensor in state.items():
        expected = tensor.movedim(1, -1) if tensor.ndim == 4 else tensor
        assert ours[name].dtype == dtype
        np.testing.assert_array_equal(np.array(ours[name].astype(mx.float32)), expected.float().numpy(), err_msg=name)


@pytest.fixture(scope="module")
def vae():
    torch.manual_seed(0)
    return tiny.vae()


@pytest.fixture
def folder(vae, tmp_path) -> Path:
    """A tiny VAE as diffusers saves it."""
    vae.save_pretrained(tmp_path / "vae")
    return tmp_path / "vae"


def rewrite(folder: Path, change) -> None:
    """Passes the weights of a folder through `change(state)`, in place."""
    state = load_file(folder / WEIGHTS)
    change(state)
    save_file(state, folder / WEIGHTS)


# What is written is what is loaded


def test_one_file(vae, folder):
    module = new_vae(folder)
    assert load_component(module, folder, dtype=mx.float32) is module
    check(module, vae.state_dict())


@pytest.mark.parametrize("variant", [None, "fp16"])
def test_shards(vae, tmp_path, variant):
    vae.save_pretrained(tmp_path, max_shard_size="40KB", variant=variant)
    assert len(list(tmp_path.glob("*-of-*.safetensors"))) > 2
    check(load_component(new_vae(tmp_path), tmp_path, dtype=mx.float32, variant=variant), vae.state_dict())


def test_shards_of_transformers(tmp_path):
    torch.manual_seed(0)
    clip = TorchCLIP(tiny.text_config())
    clip.save_pretrained(tmp_path, max_shard_size="100KB")
    assert (tmp_path / "model.safetensors.index.json").exists()
    module = load_component(new_clip(tmp_path), tmp_path, dtype=mx.float32, rename=TEXT_MODEL_PREFIX)
    check(module, clip.state_dict())


def test_a_variant_beside_the_plain_file(vae, folder):
    half = {name: tensor.half() for name, tensor in vae.state_dict().items()}
    save_file(half, folder / "diffusion_pytorch_model.fp16.safetensors")
    check(load_component(new_vae(folder), folder, dtype=mx.float32), vae.state_dict())
    check(load_component(new_vae(folder), folder, dtype=mx.float16, variant="fp16"), half, mx.float16)
    (folder / WEIGHTS).unlink()
    check(load_component(new_vae(folder), folder, dtype=mx.float32), half)


@pytest.mark.parametrize("stored", [torch.float16, torch.bfloat16, torch.float32], ids=str)
@pytest.mark.parametrize("dtype", [mx.float16, mx.bfloat16, mx.float32], ids=str)
def test_every_storage_type_becomes_every_dtype(vae, folder, stored, dtype):
    state = {name: tensor.to(stored) for name, tensor in vae.state_dict().items()}
    save_file(state, folder / WEIGHTS)
    cast = {mx.float16: torch.float16, mx.bfloat16: torch.bfloat16, mx.float32: torch.float32}[dtype]
    module = load_component(new_vae(folder), folder, dtype=dtype)
    check(module, {name: tensor.to(cast) for name, tensor in state.items()}, dtype)


@pytest.mark.parametrize("with_projection", [False, True])
@pytest.mark.parametrize("old", [False, True], ids=["transformers 5", "transformers 4"])
def test_both_generations_of_text_encoder(tmp_path, old, with_projection):
    torch.manual_seed(0)
    clip = (CLIPTextModelWithProjection if with_projection else TorchCLIP)(tiny.text_config())
    clip.save_pretrained(tmp_path)
    state = load_file(tmp_path / "model.safetensors")
    if old:
        state = {
            name if name.startswith(("text_model.", "text_projection.")) else f"text_model.{name}": tensor
            for name, tensor in state.items()
        }
        state["text_model.embeddings.position_ids"] = torch.arange(77)[None]
        save_file(state, tmp_path / "model.safetensors")
    assert any(name.startswith("text_model.") for name in state) == (old or with_projection)
    module = new_clip(tmp_path, with_projection)
    check(load_component(module, tmp_path, dtype=mx.float32, rename=TEXT_MODEL_PREFIX), clip.state_dict())


def to_old_attention(state: dict[str, torch.Tensor]) -> None:
    """The names (and, in some files, the 1x1 convolutions) of the VAE's attention before diffusers 0.15."""
    old = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}
    for name in [name for name in state if ".attentions." in name]:
        renamed = name
        for new, former in old.items():
            renamed = renamed.replace(f".{new}.", f".{former}.")
        state[renamed] = state.pop(name)


def test_old_names_of_the_vaes_attention(vae, folder):
    rewrite(folder, to_old_attention)
    assert "decoder.mid_block.attentions.0.proj_attn.weight" in load_file(folder / WEIGHTS)
    check(load_component(new_vae(folder), folder, dtype=mx.float32, rename=OLD_VAE_ATTENTION), vae.state_dict())
    with pytest.raises(CheckpointError, match=r"lacks the weight 'decoder\.mid_block\.attentions\.0\.to_k\.bias'"):
        load_component(new_vae(folder), folder, dtype=mx.float32)


def test_a_linear_layer_stored_as_a_convolution_and_the_reverse(vae, folder):
    linear, conv = "decoder.mid_block.attentions.0.to_q.weight", "quant_conv.weight"

    def swap(state):
        state[linear] = state[linear][:, :, None, None].contiguous()
        state[conv] = state[conv][:, :, 0, 0].contiguous()

    rewrite(folder, swap)
    check(load_component(new_vae(folder), folder, dtype=mx.float32), vae.state_dict())


@pytest.mark.parametrize("part", ["vae", "text_encoder"])
def test_the_built_in_checkpoint(part):
    folder = EMOJI / part
    module = (new_vae if part == "vae" else new_clip)(folder)
    load_component(module, folder, dtype=mx.float32, rename=TEXT_MODEL_PREFIX)
    check(module, load_file(next(folder.glob("*.safetensors"))))


def test_a_folder_of_links_as_in_the_hub_cache(vae, folder, tmp_path):
    snapshot = tmp_path / "snapshot"
    snapshot.mkdir()
    for path in folder.iterdir():
        (snapshot / path.name).symlink_to(path)
    check(load_component(new_vae(snapshot), snapshot, dtype=mx.float32), vae.state_dict())


# It stays lazy


def test_loading_reads_no_weight(folder):
    module = load_component(new_vae(folder), folder, dtype=mx.float32)
    before = mx.get_active_memory()
    mx.eval(module.parameters())
    size = sum(array.nbytes for _, array in tree_flatten(module.parameters()))
    assert mx.get_active_memory() - before >= 0.9 * size


def test_the_built_in_model_loads_at_once():
    def seconds() -> float:
        start = time.process_time()
        for part, new in (("vae", new_vae), ("text_encoder", new_clip)):
            module = load_component(new(EMOJI / part), EMOJI / part, dtype=mx.float32)
            mx.eval(module.parameters())
        return time.process_time() - start

    assert min(seconds() for _ in range(5)) < 0.15


# What does not fit stops with its name


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s: s.pop("quant_conv.bias"), r"lacks the weight 'quant_conv\.bias'\. "),
        (lambda s: [s.pop(k) for k in list(s) if "decoder" in k], r"'decoder\.conv_in\.bias' \(and \d\d more such\)"),
        (lambda s: s.update(extra=torch.zeros(1)), r"holds 'extra', which the model has no place for\. "),
        (
            lambda s: s.update({f"lora.{i}": torch.zeros(1) for i in range(4)}),
            r"holds 'lora\.0', .* \(and 3 more such\)",
        ),
        (
            lambda s: s.update({"encoder.conv_in.weight": torch.zeros(16, 9, 3, 3)}),
            r"'encoder\.conv_in\.weight' in the shape \(16, 9, 3, 3\) where its config makes it \(16, 3, 3, 3\)",
        ),
        (  # a file in MLX's layout
            lambda s: s.update({"encoder.conv_out.weight": torch.zeros(8, 3, 3, 32)}),
            r"'encoder\.conv_out\.weight' in the shape \(8, 3, 3, 32\) where its config makes it \(8, 32, 3, 3\)",
        ),
        (lambda s: s.update({"quant_conv.bias": torch.zeros(8, 1)}), r"'quant_conv\.bias' in the shape \(8, 1\)"),
        (lambda s: s.update({"quant_conv.bias": torch.zeros(8).int()}), r"'quant_conv\.bias' as integers \(I32\)"),
        (lambda s: s.update({"quant_conv.bias": torch.tensor(1.0)}), r"'quant_conv\.bias' in the shape \(\)"),
        (
            lambda s: s.update({"quant_conv.weight": torch.zeros(8, 8).to(torch.float8_e4m3fn)}),
            r"'quant_conv\.weight' as F8_E4M3",
        ),
    ],
)
def test_weights_that_do_not_fit_are_refused_by_name(folder, change, message):
    rewrite(folder, change)
    with pytest.raises((CheckpointError, UnsupportedError), match=message):
        load_component(new_vae(folder), folder, dtype=mx.float32)


def test_a_module_that_was_refused_keeps_its_values(folder):
    rewrite(folder, lambda state: state.pop("quant_conv.bias"))
    module = new_vae(folder)
    before = dict(tree_flatten(module.parameters()))
    with pytest.raises(CheckpointError):
        load_component(module, folder, dtype=mx.float32)
    assert all(array is before[name] for name, array in tree_flatten(module.parameters()))


def test_position_ids_are_let_pass_and_integers_elsewhere_are_not(folder, vae):
    rewrite(folder, lambda state: state.update({"embeddings.position_ids": torch.arange(77)[None]}))
    check(load_component(new_vae(folder), folder, dtype=mx.float32), vae.state_dict())
    rewrite(folder, lambda state: state.update({"steps": torch.arange(77)}))
    with pytest.raises(CheckpointError, match="'steps' as integers"):
        load_component(new_vae(folder), folder, dtype=mx.float32)


def test_optional_weights_may_be_absent_and_others_not(folder):
    rewrite(folder, lambda state: [state.pop("quant_conv.bias"), state.pop("quant_conv.weight")])
    with pytest.raises(CheckpointError, match=r"lacks the weight 'quant_conv\.weight'"):
        load_component(new_vae(folder), folder, dtype=mx.float16, optional=("quant_conv.bias",))
    both = ("quant_conv.bias", "quant_conv.weight")
    module = load_component(new_vae(folder), folder, dtype=mx.float16, optional=both)
    assert {array.dtype for _, array in tree_flatten(module.parameters())} == {mx.float16}


def test_one_weight_under_two_names_is_refused(folder):
    def add(state):
        state["decoder.mid_block.attentions.0.query.bias"] = state["decoder.mid_block.attentions.0.to_q.bias"].clone()

    rewrite(folder, add)
    with pytest.raises(CheckpointError, match=r"'decoder\.mid_block\.attentions\.0\.to_q\.bias' under two names"):
        load_component(new_vae(folder), folder, dtype=mx.float32, rename=OLD_VAE_ATTENTION)


def test_names_from_a_file_cannot_drive_a_terminal(folder):
    rewrite(folder, lambda state: state.update({"\x1b[2J": torch.zeros(1)}))
    with pytest.raises(CheckpointError) as caught:
        load_component(new_vae(folder), folder, dtype=mx.float32)
    assert "\x1b" not in str(caught.value)


# MLX reads F8_E4M3 as plain bytes, without a word, and refuses a whole file for one tensor of another such type.
@pytest.mark.parametrize(("dtype", "size"), [("F8_E4M3", 1), ("F8_E5M2", 1), ("F64", 8), ("C64", 8)])
def test_a_storage_type_counts_only_where_the_tensor_is_read(folder, vae, dtype, size):
    path = folder / WEIGHTS
    add_tensor(path, "embeddings.position_ids", dtype, size)
    check(load_component(new_vae(folder), folder, dtype=mx.float32), vae.state_dict())
    vae.save_pretrained(folder)
    add_tensor(path, "quant_conv.more", dtype, size)
    problem = "which the model has no place for" if dtype == "F64" else f"'quant_conv.more' as {dtype}"
    with pytest.raises((UnsupportedError, CheckpointError), match=problem):
        load_component(new_vae(folder), folder, dtype=mx.float32)


def add_tensor(path: Path, name: str, dtype: str, size: int) -> None:
    """Adds two numbers of any type to a safetensors file."""
    content = path.read_bytes()
    length = int.from_bytes(content[:8], "little")
    header, data = json.loads(content[8 : 8 + length]), content[8 + length :]
    header[name] = {"dtype": dtype, "shape": [2], "data_offsets": [len(data), len(data) + 2 * size]}
    raw = json.dumps(header).encode()
    path.unlink()
    path.write_bytes(len(raw).to_bytes(8, "little") + raw + data + bytes(2 * size))


@pytest.mark.parametrize("other", [torch.float64, torch.bfloat16, torch.float16], ids=str)
def test_float64_weights_load_alone_and_among_others(vae, folder, other):
    doubles = {name: tensor.double() + 1e-9 for name, tensor in vae.state_dict().items()}
    state = {name: tensor.to(other) if i % 2 else tensor for i, (name, tensor) in enumerate(doubles.items())}
    state["quant_conv.bias"] = torch.full((8,), 1e300, dtype=torch.float64)
    save_file(state, folder / WEIGHTS)
    module = load_component(new_vae(folder), folder, dtype=mx.float32)
    check(module, {name: tensor.float() for name, tensor in state.items()})
    save_file(dict(list(state.items())[::-1]), folder / WEIGHTS)
    half = {name: tensor.float().half() for name, tensor in state.items()}
    check(load_component(new_vae(folder), folder, dtype=mx.float16), half, mx.float16)


@pytest.mark.parametrize("prefix", ["module.", "_orig_mod.", "model.", "model._orig_mod.", "module.model."])
def test_prefixes_of_wrappers_are_stripped(vae, folder, tmp_path, prefix):
    state = vae.state_dict()
    save_file({f"{prefix}{name}": tensor for name, tensor in state.items()}, folder / WEIGHTS)
    check(load_component(new_vae(folder), folder, dtype=mx.float32), state)
    # torch.compile wraps single blocks too.
    save_file({name.replace("mid_block.", "mid_block._orig_mod."): t for name, t in state.items()}, folder / WEIGHTS)
    check(load_component(new_vae(folder), folder, dtype=mx.float32), state)
    clip = TorchCLIP(tiny.text_config())
    clip.save_pretrained(tmp_path / "clip")
    wrapped = {f"{prefix}text_model.{name}": tensor for name, tensor in clip.state_dict().items()}
    save_file(wrapped, tmp_path / "clip" / "model.safetensors")
    module = load_component(new_clip(tmp_path / "clip"), tmp_path / "clip", dtype=mx.float32, rename=TEXT_MODEL_PREFIX)
    check(module, clip.state_dict())


def test_a_wrapped_weight_beside_the_plain_one_is_refused(vae, folder):
    state = vae.state_dict()
    save_file(state | {"module.quant_conv.bias": state["quant_conv.bias"].clone()}, folder / WEIGHTS)
    with pytest.raises(CheckpointError, match=r"'quant_conv\.bias' under two names"):
        load_component(new_vae(folder), folder, dtype=mx.float32)


# Shards and their index


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda m: m.pop("quant_conv.bias"), r"also holds 'quant_conv\.bias'"),
        (lambda m: m.update({"nothing": m["quant_conv.bias"]}), r"lacks 'nothing'"),
        (lambda m: m.update({"quant_conv.bias": m["decoder.conv_in.bias"]}), r"'quant_conv\.bias', against the index"),
        (lambda m: m.update({"quant_conv.bias": "gone.safetensors"}), r"gone\.safetensors cannot be read"),
    ],
)
def test_shards_hold_what_their_index_says(vae, tmp_path, change, message):
    vae.save_pretrained(tmp_path, max_shard_size="40KB")
    path = tmp_path / f"{WEIGHTS}.index.json"
    index = json.loads(path.read_text())
    change(index["weight_map"])
    path.write_text(json.dumps(index))
    with pytest.raises(CheckpointError, match=message):
        load_component(new_vae(tmp_path), tmp_path, dtype=mx.float32)


def test_a_shard_that_is_missing_is_named(vae, tmp_path):
    vae.save_pretrained(tmp_path, max_shard_size="40KB")
    shard = sorted(tmp_path.glob("*-of-*.safetensors"))[1]
    shard.unlink()
    with pytest.raises(CheckpointError, match=shard.name):
        load_component(new_vae(tmp_path), tmp_path, dtype=mx.float32)


# Hostile files


def test_damaged_components_load_or_raise_but_never_crash(folder):
    """Headers that parse but say something else: names, types and shapes swapped among the tensors of a real file."""
    path = folder / WEIGHTS
    content = path.read_bytes()
    length = int.from_bytes(content[:8], "little")
    header = json.loads(content[8 : 8 + length])
    rng = random.Random(0)
    refused = 0
    for _ in range(200):
        changed = json.loads(json.dumps(header))
        one, other = rng.sample([name for name in changed if name != "__metadata__"], 2)
        kind = rng.randrange(6)
        if kind == 0:
            changed[one]["shape"].reverse()
        elif kind == 1:
            changed[one]["dtype"] = rng.choice(["F16", "I32", "F64", "U8", "F8_E4M3", "F32 "])
        elif kind == 2:
            changed[one], changed[other] = changed[other], changed[one]
        elif kind == 3:
            changed[one + rng.choice([".", "x", "\0"])] = changed.pop(one)
        elif kind == 4:
            changed[one]["data_offsets"] = changed[other]["data_offsets"]
        else:
            changed[one]["shape"] = rng.choice([[], [0], [2**31], [1] * 40, [True], ["3"], None])
        raw = json.dumps(changed).encode()
        path.unlink()
        path.write_bytes(len(raw).to_bytes(8, "little") + raw + content[8 + length :])
        module = new_vae(folder)
        shapes = parameter_shapes(module)
        try:
            load_component(module, folder, dtype=mx.float32)
        except MlxdiffError:
            refused += 1
        assert parameter_shapes(module) == shapes
        mx.eval(module.parameters())
    assert 100 < refused < 200


def test_headers_are_read_without_mlx():
    code = (
        "import sys; from pathlib import Path; from mlxdiff.checkpoint import detect, header\n"
        "files = detect.weight_files(Path(sys.argv[1])); header.read_header(files.paths[0])\n"
        "assert 'mlx.core' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code, str(EMOJI / "vae")], check=True)
    assert len(read_header(EMOJI / "vae" / WEIGHTS).tensors) == 156
