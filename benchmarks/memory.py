"""The most memory that each phase of a picture takes, and that decoding takes whole and in strips.

    python benchmarks/memory.py                                decoding at several sizes, with and without --tile
    python benchmarks/memory.py --phases sdxl --quantize 8     a whole picture, 1024x1024, of a random checkpoint

Random weights in the shapes of the published models: memory does not depend on their values. docs/memory.md has the
numbers. Each row has a process of its own. `active` is what MLX held at most, `resident` what the system counted.
"""

from __future__ import annotations

import argparse
import json
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import machine

FAMILIES = {"sd1": 512, "sd2": 768, "sdxl": 1024}
SHARD = 2**30  # bytes of weights in a file, about
NETWORKS = ("text_encoder", "text_encoder_2", "unet", "vae")
VAE = {
    "block_out_channels": [128, 256, 512, 512],
    "layers_per_block": 2,
    "down_block_types": ["DownEncoderBlock2D"] * 4,
    "up_block_types": ["UpDecoderBlock2D"] * 4,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--phases", choices=tuple(FAMILIES), help="a whole picture of this family instead")
    parser.add_argument("--folder", type=Path, help="keep the random checkpoint here, or take it from here")
    parser.add_argument("--quantize", type=int, choices=(8, 4))
    parser.add_argument("--size", type=int, action="append", help="pixels a side; may be given several times")
    parser.add_argument("--tile", type=int, default=512, help="of the rows in strips")
    parser.add_argument("--guidance-scale", type=float, default=5.0)
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--dtype", default=None)
    parser.add_argument("--no-whole", action="store_true", help="leave out decoding as a whole")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.child is not None:
        job = json.loads(arguments.child)
        print(json.dumps({"decode": decode, "phases": phases}[job.pop("what")](**job)))
    elif arguments.phases is None:
        report(arguments, decodes(arguments))
    else:
        with tempfile.TemporaryDirectory() as place:
            folder = Path(place) / arguments.phases if arguments.folder is None else arguments.folder
            if not folder.exists():
                random_model(arguments.phases, folder)
            size = arguments.size[0] if arguments.size else FAMILIES[arguments.phases]
            asked = {"model": str(folder), "quantize": arguments.quantize, "size": size, "batch": arguments.batch}
            asked |= {"guidance_scale": arguments.guidance_scale, "dtype": arguments.dtype, "tile": arguments.tile}
            report(arguments, measured("phases", asked))


def report(arguments: argparse.Namespace, rows: list[dict[str, Any]]) -> None:
    described = machine.describe("mlx", "mlxdiff")
    if arguments.json:
        print(json.dumps({"machine": described, "rows": rows}))
        return
    print(machine.line(described), "\n")
    print("| " + " | ".join(rows[0]) + " |\n|" + "---|" * len(rows[0]))
    for row in rows:
        print("| " + " | ".join(str(value) for value in row.values()) + " |")


def measured(what: str, asked: dict[str, Any]) -> list[dict[str, Any]]:
    """The rows of a child, or one that says how it ended: memory may well run out."""
    command = [sys.executable, __file__, "--child", json.dumps({"what": what, **asked})]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode != 0:
        print(done.stderr[-2000:], file=sys.stderr)
        raise SystemExit(f"{what} {asked} ended with {done.returncode}")
    return json.loads(done.stdout.splitlines()[-1])


def decodes(arguments: argparse.Namespace) -> list[dict[str, Any]]:
    rows = []
    for size in arguments.size or (512, 1024):
        for tile in (arguments.tile,) if arguments.no_whole else (None, arguments.tile):
            rows += measured("decode", {"size": size, "tile": tile, "dtype": arguments.dtype})
    return rows


class Watch:
    """Peaks of one phase after another."""

    def __init__(self) -> None:
        self.rows: list[dict[str, Any]] = []
        self.begin()

    def begin(self) -> None:
        import mlx.core as mx

        mx.reset_peak_memory()
        self.start = time.perf_counter()

    def end(self, phase: str, **about: Any) -> None:
        """Memory in MB (10^6 bytes). `resident` is the highest so far, of the whole process."""
        import mlx.core as mx

        resident = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
        row = {"phase": phase, **about, "seconds": round(time.perf_counter() - self.start, 1)}
        row |= {"active MB": mx.get_peak_memory() // 10**6, "after MB": mx.get_active_memory() // 10**6}
        self.rows.append(row | {"resident MB": resident // 10**6})
        print(self.rows[-1], file=sys.stderr, flush=True)
        self.begin()


def decode(size: int, tile: int | None, dtype: str | None) -> list[dict[str, Any]]:
    """Decoding of one picture by Stable Diffusion's VAE."""
    import mlx.core as mx

    from mlxdiff import backend
    from mlxdiff.models.tiling import decode_tiled
    from mlxdiff.models.vae import AutoencoderKL, VAEConfig

    backend.prepare()
    vae = AutoencoderKL(VAEConfig.from_dict(VAE))
    vae.set_dtype(backend.default_dtype() if dtype is None else backend.parse_dtype(dtype))
    z = mx.random.normal((1, size // 8, size // 8, 4)).astype(vae.dtype)
    mx.eval(vae.decoder.parameters(), vae.post_quant_conv.parameters(), z)
    watch = Watch()
    if tile is None:
        mx.eval(vae.decode(z))
    else:
        with backend.small_cache():
            mx.eval(decode_tiled(vae, z, tile))
    watch.end("decode", size=f"{size}x{size}", tile="off" if tile is None else tile)
    return watch.rows


def phases(
    model: str, quantize: int | None, size: int, batch: int, guidance_scale: float, dtype: str | None, tile: int | None
) -> list[dict[str, Any]]:
    """One picture after another phase, with one denoising step."""
    import mlx.core as mx

    from mlxdiff import Request, StableDiffusion

    request = Request(
        "a photograph", n_images=batch, height=size, width=size, steps=1, guidance_scale=guidance_scale, seed=0
    )
    sd = StableDiffusion(model, quantize=quantize, dtype=dtype).load()
    request = sd.resolve(request)
    watch = Watch()
    steps = sd.denoise(request)
    first = next(steps)
    watch.end("encode the prompt")
    mx.eval(first.latents)
    latents = first.latents
    watch.end("denoise a step")
    del first
    assert next(steps, None) is None
    mx.eval(sd.decode(latents[:1], tile=tile))
    watch.end("decode")
    return watch.rows


def random_model(family: str, folder: Path) -> None:
    """A checkpoint in the diffusers layout with the family's published configs and random fp16 weights."""
    import mlxdiff

    assets = Path(mlxdiff.__file__).parent / "assets"
    configs = json.loads((assets / "single_file" / f"{family}.json").read_text())
    folder.mkdir(parents=True)
    index = configs["model_index"]
    (folder / "model_index.json").write_text(json.dumps(index))
    for name in ("scheduler", *NETWORKS):
        if name not in configs:
            continue
        (folder / name).mkdir()
        file = "scheduler_config.json" if name == "scheduler" else "config.json"
        (folder / name / file).write_text(json.dumps(configs[name]))
        if name != "scheduler":
            write_network(name, configs[name], folder / name)
    for name in ("tokenizer", "tokenizer_2"):
        if name in index:
            shutil.copytree(assets / "emoji" / "tokenizer", folder / name)


def write_network(name: str, config: dict[str, Any], folder: Path) -> None:
    """Random weights in shards, so that no more than one of them is in memory."""
    import mlx.core as mx
    from mlx.utils import tree_flatten

    from mlxdiff.models.clip import CLIPTextConfig, CLIPTextModel
    from mlxdiff.models.unet import UNet2DConditionModel, UNetConfig
    from mlxdiff.models.vae import AutoencoderKL, VAEConfig

    if name == "unet":
        module = UNet2DConditionModel(UNetConfig.from_dict(config))
    elif name == "vae":
        module = AutoencoderKL(VAEConfig.from_dict(config))
    else:
        module = CLIPTextModel(CLIPTextConfig.from_dict(config), with_projection=name == "text_encoder_2")
    parameters: dict[str, mx.array] = dict(tree_flatten(module.parameters()))
    del module
    stem = "diffusion_pytorch_model" if name in ("unet", "vae") else "model"
    shard: dict[str, mx.array] = {}
    weight_map: dict[str, str] = {}
    while parameters:
        path, array = parameters.popitem()
        # As torch keeps it.
        array = array.transpose(0, 3, 1, 2) if array.ndim == 4 else array
        shard[path] = mx.contiguous(array.astype(mx.float16))
        if not parameters or sum(array.nbytes for array in shard.values()) > SHARD:
            file = f"{stem}-{len(set(weight_map.values())) + 1:05d}-of-99999.safetensors"
            weight_map |= dict.fromkeys(shard, file)
            mx.save_safetensors(str(folder / file), shard)
            shard.clear()
            mx.clear_cache()
    (folder / f"{stem}.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))


if __name__ == "__main__":
    main()
