"""Loading as a list of transformations: what adapters merge or attach, and that it can be undone bit for bit."""

from __future__ import annotations

from pathlib import Path

import mlx.core as mx
import mlx.nn as nn
import numpy as np
import pytest
import tiny
import torch
from mlx.utils import tree_flatten
from safetensors.torch import load_file

import mlxdiff
from mlxdiff.checkpoint import transform
from mlxdiff.checkpoint.load import LoadedNetwork, StoredWeights, read_component, steps
from mlxdiff.errors import CheckpointError
from mlxdiff.families import base
from mlxdiff.models.backbone import Extra
from mlxdiff.models.layers import OnStreams
from mlxdiff.models.unet import UNet2DConditionModel, UNetConfig
from mlxdiff.quantized import write_quantized

EMOJI = Path(mlxdiff.__file__).parent / "assets/emoji"
ATTENTION = "down_blocks.1.attentions.0.transformer_blocks.0"
LAYERS = {
    "query": f"{ATTENTION}.attn1.to_q",
    "output of attention": f"{ATTENTION}.attn1.to_out.0",
    "key of the context": f"{ATTENTION}.attn2.to_k",
    "gated": f"{ATTENTION}.ff.net.0.proj",
    "projection": "down_blocks.1.attentions.0.proj_in",
    "convolution": "up_blocks.0.resnets.0.conv1",
    "shortcut": "up_blocks.0.resnets.0.conv_shortcut",
    "first": "conv_in",
    "downsampler": "down_blocks.0.downsamplers.0.conv",
    "time embedding": "time_embedding.linear_1",
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return tiny.write(tiny.sdxl, tmp_path_factory.mktemp("models") / "sdxl")


def loaded(folder: Path, bits: int | None = None, dtype: mx.Dtype = mx.float32) -> LoadedNetwork:
    return base.load_network(base.read_checkpoint(folder), "unet", dtype, bits, finish=(transform.fuse(),))


def arrays(module: nn.Module) -> dict[str, mx.array]:
    return dict(tree_flatten(module.parameters()))


def same(one: nn.Module, other: nn.Module) -> bool:
    a, b = arrays(one), arrays(other)
    return a.keys() == b.keys() and all(a[k].dtype == b[k].dtype and mx.array_equal(a[k], b[k]) for k in a)


class LowRank(nn.Module):
    """A change of low rank (Hu et al. 2021, LoRA): up @ (down @ x) for x (..., in), or two convolutions.

    down  (r, in); for a convolution (r, kh, kw, in), in MLX's layout, already scaled
    up    (out, r); for a convolution (out, 1, 1, r)
    """

    def __init__(self, down: mx.array, up: mx.array, *, stride: int = 1, padding: int = 0):
        super().__init__()
        self.down, self.up = down, up
        self.stride, self.padding = stride, padding

    def __call__(self, x: mx.array) -> mx.array:
        if self.down.ndim == 4 and self.down.shape[1:3] != (1, 1):
            x = mx.conv2d(x, self.down, stride=self.stride, padding=self.padding)
        else:
            x = x @ self.down.reshape(self.down.shape[0], -1).T
        return x @ self.up.reshape(self.up.shape[0], -1).T


class WithChange(OnStreams, nn.Module):
    """A linear layer or a convolution, quantized or not, with a change beside it; it is called as the layer is."""

    def __init__(self, layer: nn.Module, change: nn.Module):
        super().__init__()
        self.layer, self.change = layer, change

    @property
    def bias(self) -> mx.array:
        return self.layer.bias

    def __call__(self, x: mx.array) -> mx.array:
        return self.layer(x) + self.change(x)

    def product(self, x: mx.array) -> mx.array:
        """A linear layer without its bias."""
        return self.layer.product(x) + self.change(x)

    def convolve(self, x: mx.array) -> mx.array:
        """A convolution without its bias."""
        return self.layer.convolve(x) + self.change(x)


def changes(module: nn.Module, layers, rank: int = 2) -> dict[str, tuple[mx.array, mx.array]]:
    """Path of a layer -> (down, up), in the layer's layout."""
    found = {}
    for i, layer in enumerate(layers):
        shape = arrays(module)[f"{layer}.weight"].shape
        down = mx.random.normal((rank, *shape[1:]), key=mx.random.key(2 * i)) * 0.2
        found[layer] = (down, mx.random.normal((shape[0], rank), key=mx.random.key(2 * i + 1)) * 0.2)
    return found


def as_delta(low_rank):
    """(path of a parameter, the parameter) -> up @ down in the layer's shape."""

    def delta(path: str, _weight: mx.array | None = None) -> mx.array | None:
        if not path.endswith(".weight") or path.removesuffix(".weight") not in low_rank:
            return None
        down, up = low_rank[path.removesuffix(".weight")]
        return (up @ down.reshape(down.shape[0], -1)).reshape(up.shape[0], *down.shape[1:])

    return delta


def as_live(low_rank):
    def live(path: str, layer: nn.Module) -> nn.Module | None:
        if path not in low_rank:
            return None
        down, up = low_rank[path]
        options = {}
        if down.ndim == 4 and down.shape[1] == 3:
            options = {"stride": layer.stride[0], "padding": layer.padding[0]}
        return WithChange(layer, LowRank(down, up, **options))

    return live


def plain(folder: Path) -> UNet2DConditionModel:
    """The UNet unfused and unquantized."""
    return base.load_network(base.read_checkpoint(folder), "unet", mx.float32).module


def output(module: UNet2DConditionModel) -> np.ndarray:
    sample, context = (mx.random.normal(s, key=mx.random.key(7)) for s in ((1, 16, 16, 4), (1, 7, 64)))
    return np.array(module(sample, 500.0, context, pooled=mx.full((1, 32), 0.1), time_ids=mx.full((1, 6), 32.0)))


@pytest.mark.parametrize("bits", [None, 8])
@pytest.mark.parametrize("dtype", [mx.float32, mx.float16], ids=str)
def test_a_change_is_merged_and_undone_bit_for_bit(folder, bits, dtype):
    unet, original = loaded(folder, bits, dtype), loaded(folder, bits, dtype)
    mx.eval(unet.module.parameters())
    delta = as_delta(changes(plain(folder), LAYERS.values()))
    unet.reload(delta=delta)
    assert not same(unet.module, original.module)
    unet.reload(delta=as_delta(changes(plain(folder), [LAYERS["convolution"]], rank=1)))
    unet.reload()
    assert same(unet.module, original.module)


@pytest.mark.parametrize("bits", [None, 8])
def test_what_is_merged_is_the_sum_in_fp32_then_quantized(folder, bits):
    low_rank = changes(plain(folder), LAYERS.values())
    delta = as_delta(low_rank)
    # The oracle: a checkpoint in which torch has added the changes already, with the rank's product by hand.
    stored = read_component(folder / "unet")
    summed = dict(stored.arrays)
    for layer in LAYERS.values():
        added = torch.from_numpy(np.array(delta(f"{layer}.weight")))
        added = added.movedim(-1, 1) if added.ndim == 4 else added
        weight = load_file(next((folder / "unet").glob("*.safetensors")))[f"{layer}.weight"]
        summed[f"{layer}.weight"] = mx.array((weight.float() + added.reshape(weight.shape)).contiguous().numpy())
    expected = UNet2DConditionModel(UNetConfig.from_dict(base.read_checkpoint(folder).source.config("unet")))
    chosen = [*steps(StoredWeights(summed, "sum"), dtype=mx.float32, bits=bits), transform.fuse()]
    transform.apply(chosen, expected, summed)
    unet = loaded(folder, bits)
    unet.reload(delta=delta)
    assert same(unet.module, expected)


@pytest.mark.parametrize("name", LAYERS)
def test_a_live_change_is_the_merged_one_and_can_be_undone(folder, name):
    unet, original = loaded(folder), loaded(folder)
    low_rank = changes(plain(folder), [LAYERS[name]])
    before = output(unet.module)
    unet.reload(delta=as_delta(low_rank))
    merged = output(unet.module)
    unet.reload(live=as_live(low_rank))
    live = output(unet.module)
    size = np.abs(before).max()
    assert np.abs(merged - before).max() > 1e-4 * size
    assert np.abs(live - merged).max() < 1e-4 * size
    unet.reload()
    assert same(unet.module, original.module)
    assert np.array_equal(output(unet.module), before)


def test_a_live_change_stands_beside_quantized_layers_and_leaves_them(folder):
    unet = loaded(folder, 8)
    before = output(unet.module)
    low_rank = changes(plain(folder), LAYERS.values())
    unet.reload(live=as_live(low_rank))
    live = output(unet.module)
    assert not np.array_equal(live, before)
    exact = loaded(folder)
    exact.reload(delta=as_delta(low_rank))
    expected = output(exact.module)
    assert np.abs(live - expected).max() < 0.05 * np.abs(expected).max()
    unet.reload()
    assert np.array_equal(output(unet.module), before)


def test_merged_and_live_changes_go_together(folder):
    low_rank = changes(plain(folder), LAYERS.values())
    first = {layer: low_rank[layer] for layer in list(low_rank)[::2]}
    rest = {layer: low_rank[layer] for layer in list(low_rank)[1::2]}
    unet = loaded(folder)
    unet.reload(delta=as_delta(low_rank))
    merged = output(unet.module)
    unet.reload(delta=as_delta(first), live=as_live(rest))
    assert np.abs(output(unet.module) - merged).max() < 1e-4 * np.abs(merged).max()


def test_a_stored_quantized_copy_is_unpacked_changed_and_packed_again(tmp_path):
    write_quantized(mlxdiff.hub.resolve(str(EMOJI)), 8, tmp_path / "copy")
    checkpoint = base.read_checkpoint(tmp_path / "copy")
    unet, untouched = (base.load_network(checkpoint, "unet", mx.float32) for _ in range(2))
    whole = base.load_network(base.read_checkpoint(EMOJI), "unet", mx.float32)
    layers = [p for p, layer in unet.module.named_modules() if isinstance(layer, nn.QuantizedLinear)]
    low_rank = changes(whole.module, [layers[0], layers[-1], "conv_in"])
    delta = as_delta(low_rank)
    unet.reload(delta=delta)
    whole.reload(delta=delta)
    for path in low_rank:
        packed, exact = transform.at(unet.module, path), transform.at(whole.module, path).weight
        if path == "conv_in":
            assert mx.array_equal(packed.weight, exact)
            continue
        found = mx.dequantize(packed.weight, packed.scales, packed.biases, packed.group_size, packed.bits)
        step = packed.scales.abs().max().item()
        assert mx.abs(found - exact).max().item() < 1.1 * step, "half a step of each of two roundings"
    unet.reload()
    assert same(unet.module, untouched.module)


def test_only_what_changes_is_read_again(folder):
    unet = loaded(folder)
    mx.eval(unet.module.parameters())
    held = arrays(unet.module)
    low_rank = changes(plain(folder), [LAYERS["query"], LAYERS["convolution"]])
    unet.reload(delta=as_delta(low_rank))
    replaced = {path for path, array in arrays(unet.module).items() if array is not held[path]}
    parents = (f"{ATTENTION}.attn1.", f"{LAYERS['convolution']}.")
    assert replaced
    assert all(path.startswith(parents) for path in replaced)
    now = arrays(unet.module)
    unet.reload()
    assert all(arrays(unet.module)[path] is array for path, array in now.items() if path not in replaced)
    before = arrays(unet.module)
    unet.reload()
    assert all(array is before[path] for path, array in arrays(unet.module).items()), "nothing to undo, nothing read"


def test_a_change_of_another_shape_is_refused_and_leaves_the_module(folder):
    unet = loaded(folder)
    before = arrays(unet.module)
    with pytest.raises(CheckpointError, match=r"An adapter changes 'conv_in\.weight' in the shape \(3,\)"):
        unet.reload(delta=lambda path, _: mx.zeros(3) if path == "conv_in.weight" else None)
    assert all(array is before[path] for path, array in arrays(unet.module).items())


def test_a_backbone_changes_its_adapters(folder):
    checkpoint = base.read_checkpoint(folder)
    backbone = base.load_backbone(checkpoint, mx.float32, None)
    backbone._compiles = True
    conditioning = base.Conditioning(mx.full((1, 7, 64), 0.3), mx.full((1, 32), 0.1), mx.full((1, 6), 32.0))

    def run() -> np.ndarray:
        prepared = backbone.prepare(conditioning, [500.0], guidance_scale=1.0)
        return np.array(backbone(mx.ones((1, 16, 16, 4)), 500.0, prepared, Extra()))

    before = run()
    backbone.reload(delta=as_delta(changes(plain(folder), LAYERS.values())))
    assert np.abs(run() - before).max() > 1e-3, "what is compiled has the new weights"
    backbone.reload()
    assert np.array_equal(run(), before)


def test_the_list_names_what_happens(folder):
    stored = read_component(folder / "unet")
    names = [t.name for t in steps(stored, dtype=mx.float16, bits=8, delta=lambda *_: None, live=lambda *_: None)]
    assert names == ["rename", "fit", "merge", "place", "quantize", "cast", "attach"]
    assert [t.name for t in steps(stored, dtype=None)] == ["rename", "fit", "place"]
