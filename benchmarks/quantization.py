"""What 8 and 4 bits cost and save: PSNR against fp32, time and memory of loading, bytes on disk.

    python benchmarks/quantization.py            the built-in model, pictures and all
    python benchmarks/quantization.py --large    loading alone, on a random UNet of SD 1.5's size (needs 6 GB of disk)

docs/quantization.md has the numbers. Each loading has a process of its own, and its
processor time is taken; the files are in the system's cache.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import machine

PROMPTS = ("a red apple", "a smiling cat face", "a green tree", "a blue car", "a slice of pizza", "a yellow star")

# SD 1.5's; diffusers' defaults but for these.
LARGE = {"sample_size": 64, "cross_attention_dim": 768, "attention_head_dim": 8, "_class_name": "UNet2DConditionModel"}

LOAD = """
import json, sys, time
import mlxdiff
import mlx.core as mx
from mlxdiff import StableDiffusion
model, bits, parts = sys.argv[1], json.loads(sys.argv[2]), sys.argv[3]
start = time.process_time()
sd = StableDiffusion(model, quantize=bits, dtype="float32")
if parts == "all":
    sd.load()
mx.eval(sd.networks.backbone.network.parameters())
print(json.dumps({"seconds": time.process_time() - start, "peak": mx.get_peak_memory()}))
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--large", action="store_true", help="a random UNet of SD 1.5's size instead")
    parser.add_argument("--steps", type=int, default=25)
    arguments = parser.parse_args()
    print(machine.line(machine.describe("mlx", "mlxdiff")))
    with tempfile.TemporaryDirectory() as home:
        os.environ["MLXDIFF_HOME"] = home
        if arguments.large:
            loading(str(random_model(Path(home) / "large")), "unet")
        else:
            loading("emoji", "all")
            loss(arguments.steps)


def random_model(folder: Path) -> Path:
    """The built-in model with a random fp16 UNet of SD 1.5's size."""
    import mlx.core as mx
    from mlx.utils import tree_flatten

    import mlxdiff
    from mlxdiff.models.unet import UNet2DConditionModel, UNetConfig

    shutil.copytree(Path(mlxdiff.__file__).parent / "assets" / "emoji", folder)
    unet = UNet2DConditionModel(UNetConfig.from_dict(LARGE))
    unet.set_dtype(mx.float16)
    parameters: dict[str, mx.array] = dict(tree_flatten(unet.parameters()))
    arrays = {
        path: mx.contiguous(array.transpose(0, 3, 1, 2)) if array.ndim == 4 else array
        for path, array in parameters.items()
    }
    mx.save_safetensors(str(folder / "unet" / "diffusion_pytorch_model.safetensors"), arrays)
    (folder / "unet" / "config.json").write_text(json.dumps(LARGE))
    return folder


def loading(model: str, parts: str) -> None:
    from mlxdiff import hub, quantized

    source = hub.resolve(model).path
    print(f"source: unet {size(source / 'unet') / 1e6:.1f} MB, all {size(source) / 1e6:.1f} MB")
    print("fp32:", measured(model, None, parts))
    for bits in (8, 4):
        print(f"{bits} bits on the fly:", measured(model, bits, parts))
        start = time.perf_counter()
        folder = quantized.store(model, bits)
        took = time.perf_counter() - start
        print(f"{bits} bits stored in {took:.2f} s: unet {size(folder / 'unet') / 1e6:.1f} MB,", end=" ")
        print(f"all {size(folder) / 1e6:.1f} MB:", measured(model, bits, parts))


def measured(model: str, bits: int | None, parts: str) -> str:
    """The median of three loads, each in a process of its own."""
    command = [sys.executable, "-c", LOAD, model, json.dumps(bits), parts]
    runs = [json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout) for _ in range(3)]
    middle = {key: statistics.median(run[key] for run in runs) for key in runs[0]}
    return f"{middle['seconds']:.2f} s, {middle['peak'] / 1e6:.0f} MB"


def size(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*.safetensors"))


def loss(steps: int) -> None:
    import mlx.core as mx
    import numpy as np

    from mlxdiff import StableDiffusion

    def pictures(bits: int | None) -> np.ndarray:
        sd = StableDiffusion("emoji", quantize=bits, dtype="float32")
        latents = None
        for latents in sd.generate_latents(list(PROMPTS), seed=0, steps=steps):
            mx.eval(latents)
        assert latents is not None
        return np.array(sd.decode(latents))

    exact = pictures(None)
    for bits in (8, 4):
        errors = ((pictures(bits) - exact) ** 2).mean(axis=(1, 2, 3))
        ratios = [-10 * math.log10(float(error)) for error in errors]
        each = ", ".join(f"{prompt} {ratio:.1f}" for prompt, ratio in zip(PROMPTS, ratios, strict=True))
        print(f"{bits} bits: PSNR median {statistics.median(ratios):.1f} dB: {each}")


if __name__ == "__main__":
    main()
