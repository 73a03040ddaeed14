"""Images a second of whole generations, from the prompt to 8-bit pixels, over batch sizes: what a user waits for.

A checkpoint with random weights is written first, and each peer loads it: mlxdiff, the same networks in plain MLX
(plain.py; the prompt goes through mlxdiff's text encoder), and diffusers' pipeline, eager or with a compiled UNet. All
take as many steps of Euler's method, with guidance, and get a new prompt each time. They take turns; medians are
printed. With --measured-steps the pictures are rendered in that many steps and in a quarter of them, and the
time of --steps steps is extrapolated from the two.
    python benchmarks/throughput.py [--model sd21] [--batches 1,2,4,6,8,12,16] [--steps 50] [--json]
"""

from __future__ import annotations

import argparse
import itertools
import json
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import checkpoints
import devices
import machine
import mlx.core as mx
import plain
import timing

from mlxdiff import StableDiffusion, backend, images
from mlxdiff.conditioning import concatenate

# (images, steps) -> anything; returns when the pixels are there.
Generate = Callable[[int, int], object]

GUIDANCE = 7.5
THEIRS = {"diffusers": None, "compile": "default", "compile-autotune": "max-autotune-no-cudagraphs"}
NAMES = ("mlxdiff", "plain", *THEIRS)
WARM_UP_STEPS = 2

_count = itertools.count()


def new_prompt() -> str:
    """One that no peer has seen, and so cannot have kept the encoding of."""
    return f"photograph number {next(_count)} of an astronaut on a horse"


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", choices=checkpoints.MODELS, default="sd21")
    parser.add_argument("--size", type=int, help="pixels along a side; the model's usual one unless given")
    parser.add_argument("--batches", type=lambda text: [*map(int, text.split(","))], default=[1, 2, 4, 6, 8, 12, 16])
    parser.add_argument("--steps", type=int, default=50)
    parser.add_argument("--measured-steps", type=int, help="render in these and extrapolate to --steps")
    parser.add_argument("--decode-batch-size", type=int, default=1, help="images that mlxdiff and plain decode at once")
    parser.add_argument("--peers", default="mlxdiff,plain,diffusers", help=f"of {', '.join(NAMES)}")
    parser.add_argument("--turns", type=int, default=2)
    parser.add_argument("--checkpoint", type=Path, help="where to keep the random checkpoint for another run")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    asked = options.peers.split(",")
    if unknown := set(asked) - set(NAMES):
        parser.error(f"no peer is called {', '.join(sorted(unknown))}")
    options.peers = [name for name in NAMES if name in asked]
    if options.measured_steps is None:
        options.measured_steps = options.steps
    if options.measured_steps != options.steps and not 4 <= options.measured_steps < options.steps:
        parser.error("--measured-steps is 4 or more, and fewer than --steps")
    if options.size is None:
        options.size = 8 * checkpoints.published(options.model)["unet"]["sample_size"]
    return options


def in_mlxdiff(folder: Path, size: int, at_once: int) -> Generate:
    sd = StableDiffusion(str(folder)).load()

    def generate(n: int, steps: int) -> object:
        latents = mx.zeros(())
        for latents in sd.generate_latents(
            new_prompt(), n_images=n, steps=steps, guidance_scale=GUIDANCE, seed=0, height=size, width=size
        ):
            mx.eval(latents)
        return [images.to_uint8(sd.decode(latents[i : i + at_once])) for i in range(0, n, at_once)]

    return generate


def in_plain_mlx(folder: Path, model: str, size: int, at_once: int) -> Generate:
    sd = StableDiffusion(str(folder))
    configs, dtype = checkpoints.published(model), backend.default_dtype()
    vae_dtype = mx.float32 if configs["vae"].get("force_upcast") else dtype
    unet, decoder = plain.UNet(configs["unet"]), plain.VAEDecoder(configs["vae"])
    file = "diffusion_pytorch_model.safetensors"
    plain.load(unet, folder / "unet" / file, dtype, "")
    plain.load(decoder, folder / "vae" / file, vae_dtype, "decoder.", "post_quant_conv.")

    def generate(n: int, steps: int) -> object:
        branches = [sd.encode_prompt([text] * n, height=size, width=size) for text in ("", new_prompt())]
        conditioning = {name: array for name, array in vars(concatenate(branches)).items() if array is not None}
        noise = mx.random.normal((n, size // 8, size // 8, 4)).astype(dtype)
        latents = noise
        for latents in plain.sample(unet, checkpoints.scheduler(), noise, steps, GUIDANCE, **conditioning):
            mx.eval(latents)
        latents = latents.astype(vae_dtype)
        return [images.to_uint8(decoder(latents[i : i + at_once])) for i in range(0, n, at_once)]

    return generate


def in_diffusers(folder: Path, model: str, size: int, mode: str | None) -> Generate:
    """The pipeline as its documentation advises for speed: half precision and channels_last, on a GPU."""
    import torch
    from diffusers import StableDiffusionPipeline, StableDiffusionXLPipeline
    from diffusers.utils import logging

    logging.set_verbosity_error()
    logging.disable_progress_bar()
    dtype = getattr(torch, devices.dtype_name())
    if model == "sdxl":
        pipe = StableDiffusionXLPipeline.from_pretrained(folder, dtype=dtype, add_watermarker=False)
    else:
        pipe = StableDiffusionPipeline.from_pretrained(
            folder, dtype=dtype, safety_checker=None, requires_safety_checker=False
        )
    torch.backends.cudnn.benchmark = True
    pipe = pipe.to(devices.torch_device())
    pipe.set_progress_bar_config(disable=True)
    if backend.is_gpu():
        pipe.unet.to(memory_format=torch.channels_last)
        pipe.vae.to(memory_format=torch.channels_last)
    if mode is not None:
        torch._dynamo.config.recompile_limit = 64  # a batch size counts as one
        pipe.unet = torch.compile(pipe.unet, mode=mode, dynamic=False)

    def generate(n: int, steps: int) -> object:
        settings = {"num_inference_steps": steps, "guidance_scale": GUIDANCE, "height": size, "width": size}
        return pipe(new_prompt(), num_images_per_prompt=n, **settings)

    return generate


def make(name: str, folder: Path, options: Any) -> Generate:
    if name == "mlxdiff":
        return in_mlxdiff(folder, options.size, options.decode_batch_size)
    if name == "plain":
        return in_plain_mlx(folder, options.model, options.size, options.decode_batch_size)
    return in_diffusers(folder, options.model, options.size, THEIRS[name])


def seconds(peers: dict[str, Generate], n: int, options: Any) -> dict[str, float]:
    """Each peer's time for n images in --steps steps, extrapolated where fewer are measured."""
    for generate in peers.values():
        generate(n, WARM_UP_STEPS)
        devices.free()
    many = options.measured_steps
    few = many if many == options.steps else many // 4
    calls = {
        f"{name} {steps}": lambda generate=generate, steps=steps: generate(n, steps)
        for name, generate in peers.items()
        for steps in {few, many}
    }
    times = timing.alternately(calls, turns=options.turns, between=devices.free)
    found = {}
    for name in peers:
        last = times[f"{name} {many}"]
        a_step = (last - times[f"{name} {few}"]) / (many - few) if few != many else 0.0
        found[name] = last + (options.steps - many) * a_step
    return found


def measure(folder: Path, options: Any) -> list[dict[str, Any]]:
    peers = {name: make(name, folder, options) for name in options.peers}
    rows = []
    for n in options.batches:
        times = seconds(peers, n, options)
        for name, took in times.items():
            ratios = {other: times[other] / took for other in times if other != name}
            row = {"images": n, "peer": name, "seconds": took, "images_a_second": n / took, "ratios": ratios}
            print(f"{n}: {name} {took:.2f} s", file=sys.stderr)
            rows.append(row)
    return rows


def main() -> None:
    options = parse()
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary) / options.model if options.checkpoint is None else options.checkpoint
        if not (folder / "model_index.json").exists():
            checkpoints.write(options.model, folder)
        rows = measure(folder, options)
    about = machine.describe("mlx", "torch", "diffusers") | {"backend": backend.backend_name()}
    names = ("model", "size", "steps", "measured_steps", "decode_batch_size", "turns")
    settings = {name: getattr(options, name) for name in names} | {"dtype": devices.dtype_name()}
    if options.json:
        print(json.dumps({"rows": rows, "settings": settings, **about}))
        return
    print(machine.line(about))
    steps = f"{options.steps} steps with guidance"
    if options.measured_steps != options.steps:
        steps += f" (extrapolated from {options.measured_steps // 4} and {options.measured_steps})"
    print(
        f"{checkpoints.TITLES[options.model]}, {options.size}x{options.size}, {steps}, {settings['dtype']}: images/s\n"
    )
    print(report(rows, options.peers))


def report(rows: list[dict[str, Any]], peers: list[str]) -> str:
    """Images a second by batch size, one column a peer, then mlxdiff's ratio to each of the others."""
    others = [name for name in peers if name != "mlxdiff"] if "mlxdiff" in peers else []
    lines = []
    for n in dict.fromkeys(row["images"] for row in rows):
        found = {row["peer"]: row["images_a_second"] for row in rows if row["images"] == n}
        ratios = [f"{found['mlxdiff'] / found[name]:.2f}" for name in others]
        lines.append([str(n), *(f"{found[name]:.3f}" for name in peers), *ratios])
    return timing.table(["batch size", *peers, *(f"mlxdiff / {name}" for name in others)], lines)


if __name__ == "__main__":
    main()
