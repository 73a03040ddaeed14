"""How close mlxdiff is to diffusers and transformers: parts, samplers and whole pictures, all in fp32 on the CPU.

Renders with both from the same files: tiny random pipelines that diffusers wrote, and the built-in model. The tables
go into docs/parity.md:
    python benchmarks/parity.py [--write]
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import warnings
from collections.abc import Iterator
from pathlib import Path

import machine
import mlx.core as mx
import numpy as np
import pages

ROOT = Path(__file__).parents[1]
sys.path[:0] = [str(ROOT / "tests"), str(ROOT / "tests" / "diffusion")]


def relative(ours: mx.array | np.ndarray, theirs: np.ndarray) -> float:
    """Largest difference over the reference's largest magnitude."""
    return float(np.abs(np.array(ours) - theirs).max() / np.abs(theirs).max())


def table(header: list[str], rows: list[list[str]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def components(folder: Path, kind: type) -> Iterator[tuple[str, float]]:
    """(component, relative error) of each network of a pipeline on disk."""
    import torch

    from mlxdiff import StableDiffusion

    pipe = kind.from_pretrained(folder, torch_dtype=torch.float32)
    sd = StableDiffusion(str(folder), dtype="fp32")
    prompts = ["a red apple", "a dog face on a blue background"]
    encoded = sd.encode_prompt(prompts)
    theirs = (
        pipe.encode_prompt(prompts, "cpu", 1, False)
        if sd.family.name == "sd"
        else pipe.encode_prompt(prompts, do_classifier_free_guidance=False, device="cpu")
    )
    yield "text encoders", relative(encoded.context, theirs[0].detach().numpy())
    rng = np.random.default_rng(0)
    size = sd.defaults.height // sd.checkpoint.scale_factor
    latents = rng.standard_normal((2, size, size, 4)).astype(np.float32)
    added = {}
    if encoded.pooled is not None and encoded.time_ids is not None:
        added = {
            "added_cond_kwargs": {
                "text_embeds": torch.from_numpy(np.array(encoded.pooled)),
                "time_ids": torch.from_numpy(np.array(encoded.time_ids)),
            }
        }
    with torch.no_grad():
        expected = pipe.unet(
            torch.from_numpy(latents.transpose(0, 3, 1, 2)),
            torch.tensor(601.0),
            torch.from_numpy(np.array(encoded.context)),
            **added,
        ).sample.numpy()
        output = sd.networks.backbone.network(
            mx.array(latents), mx.array(601.0), encoded.context, pooled=encoded.pooled, time_ids=encoded.time_ids
        )
        yield "UNet", relative(output, expected.transpose(0, 2, 3, 1))
        picture = photograph(32 if size < 32 else 128)
        nchw = torch.from_numpy(picture.transpose(0, 3, 1, 2)) * 2 - 1
        posterior = pipe.vae.encode(nchw).latent_dist
        mean = posterior.mean.numpy().transpose(0, 2, 3, 1)
        yield "VAE encoder", relative(sd.networks.vae.encode(mx.array(picture) * 2 - 1)[0], mean)
        decoded = pipe.vae.decode(posterior.mean).sample.numpy().transpose(0, 2, 3, 1)
        yield "VAE decoder", relative(sd.networks.vae.decode(mx.array(mean)), decoded)


def photograph(size: int) -> np.ndarray:
    """scikit-image's astronaut, (1, size, size, 3) in [0, 1]."""
    from PIL import Image
    from skimage import data

    return np.asarray(Image.fromarray(data.astronaut()).resize((size, size)), np.float32)[None] / 255


def parts(folders: dict[str, tuple[Path, type]]) -> str:
    rows = []
    for name, (folder, kind) in folders.items():
        rows.append([name, *(f"{error:.1e}" for _, error in components(folder, kind))])
    return table(["pipeline", "text encoders", "UNet", "VAE encoder", "VAE decoder"], rows)


def samplers() -> str:
    from oracle_schedulers import CHECKPOINTS, CLASSES, error_table

    errors = error_table(steps=(5, 20, 50))
    rows = [[f"`{name}`", *(f"{errors[checkpoint, name]:.1e}" for checkpoint in CHECKPOINTS)] for name in CLASSES]
    return table(["sampler", *CHECKPOINTS], rows)


def schedules() -> str:
    """Every sampler with every prediction type and every schedule that its class has too."""
    from oracle_schedulers import CLASSES, RAMPED, RAMPS, SD1, SPACED, max_error

    spacings = ("leading", "linspace", "trailing")

    def cell(sampler: str, prediction: str, schedule: str) -> str:
        if sampler not in (RAMPED if schedule in RAMPS else SPACED):
            return ""
        try:
            return f"{max_error({**SD1, 'prediction_type': prediction}, sampler, 20, schedule):.1e}"
        except (NotImplementedError, ValueError):  # the class does not know this prediction type
            return ""

    rows = [
        [f"`{sampler}`", prediction, *(cell(sampler, prediction, schedule) for schedule in (*spacings, *RAMPS))]
        for sampler in CLASSES
        for prediction in ("epsilon", "v_prediction", "sample")
    ]
    header = ["sampler", "prediction", *(f"`{name}`" for name in (*spacings, *RAMPS))]
    return table(header, [row for row in rows if any(row[2:])])


def k_diffusion() -> str:
    """k-diffusion's samplers, against the numbers that it gave on the same analytic network, start and noise."""
    from test_recipes import INDICES, KDIFFUSION, SEQUENCE, levels, walk

    def error(case: str, steps: int) -> float:
        name, options = SEQUENCE[case]
        latents = np.array(list(walk(name, levels(steps), **options))[-1].latents).transpose(0, 3, 1, 2).reshape(-1)
        return relative(latents[INDICES], np.array(KDIFFUSION[case][str(steps)]["values"]))

    rows = []
    for case, (name, options) in SEQUENCE.items():
        counts = [int(key) for key in KDIFFUSION[case] if key.isdigit()]
        shown = ", ".join(f"{key}={value:g}" for key, value in options.items())
        rows.append([name, shown, ", ".join(map(str, counts)), f"{max(error(case, n) for n in counts):.1e}"])
    return table(["sampler", "options", "steps", "error"], rows)


def prompts() -> str:
    """Encoded prompts in each syntax, against that program's arithmetic on transformers' encoder, and compel itself."""
    import prompt_oracle
    import torch
    from compel import Compel
    from tokenizer_files import write_clip_tokenizer
    from transformers import CLIPTokenizer

    ours, theirs = prompt_oracle.encoders()
    encoder, states = prompt_oracle.encoder_of(ours), prompt_oracle.torch_states_of(theirs)
    rows = []

    def row(syntax: str, prompt: str, oracle: str, error: float) -> None:
        shown = prompt if len(prompt) <= 60 else f"{prompt[:40]} ... ({len(prompt)} letters)"
        rows.append([syntax, "`" + shown.replace("|", "\\|") + "`", oracle, f"{error:.1e}"])

    for case in prompt_oracle.CASES:
        found = prompt_oracle.contexts(case.syntax, case.prompt, encoder, case.steps)
        row(
            case.syntax,
            case.prompt,
            "transformers and NumPy",
            prompt_oracle.relative(found, list(case.expected(states))),
        )
    with tempfile.TemporaryDirectory() as folder:
        tokenizer = CLIPTokenizer.from_pretrained(write_clip_tokenizer(Path(folder)))
    other = Compel(tokenizer, theirs, truncate_long_prompts=False)
    for prompt in prompt_oracle.COMPEL:
        with torch.no_grad():
            expected = other(prompt)[0].numpy()
        found = prompt_oracle.contexts("compel", prompt, encoder)
        row("compel", prompt, "compel", prompt_oracle.relative(found, [expected]))
    return table(["syntax", "prompt", "against", "error"], rows)


def pictures(folders: dict[str, tuple[Path, type]]) -> str:
    import torch
    from test_pipeline import PROMPTS, SCHEDULERS, generators, ours, psnr

    rows = []

    def row(name: str, folder: Path, pipe, steps: int, guidance: float, sampler: str | None = None) -> None:
        pipe.set_progress_bar_config(disable=True)
        theirs = pipe(
            PROMPTS,
            num_inference_steps=steps,
            guidance_scale=guidance,
            generator=generators([3, 4]),
            output_type="np",
        ).images
        found = ours(folder, prompt=PROMPTS, steps=steps, guidance_scale=guidance, seed=3, sampler=sampler)
        default = "the checkpoint's" if sampler is None else f"`{sampler}`"
        rows.append([name, default, str(steps), f"{guidance:g}", f"{psnr(found, theirs):.0f} dB"])

    for name, (folder, kind) in folders.items():
        steps, guidance = (25, 4.0) if name == "emoji" else (5, 5.0)
        row(name, folder, kind.from_pretrained(folder, torch_dtype=torch.float32), steps, guidance)
    folder, kind = folders["emoji"]
    for sampler, (scheduler, options) in SCHEDULERS.items():
        pipe = kind.from_pretrained(folder, torch_dtype=torch.float32)
        pipe.scheduler = scheduler.from_config(pipe.scheduler.config, **options)
        row("emoji", folder, pipe, 25, 4.0, sampler)
    return table(["pipeline", "sampler", "steps", "guidance", "PSNR"], rows)


def loras(folders: dict[str, tuple[Path, type]], root: Path) -> str:
    """Random LoRAs on the UNet and the text encoders, and those that are built in, beside diffusers with PEFT."""
    import lora_files
    import torch
    from test_pipeline import PROMPTS, generators, ours, psnr

    from mlxdiff import hub

    rows = []
    for name in ("sd15", "sd21", "sdxl", "emoji"):
        folder, kind = folders[name]

        def pipeline(folder: Path = folder, kind=kind):
            pipe = kind.from_pretrained(folder, torch_dtype=torch.float32)
            pipe.set_progress_bar_config(disable=True)
            return pipe

        if name == "emoji":
            files = {f"{part}, built in": hub.find_part(part, "lora") for part in ("pixel-art", "emoji-4steps")}
        else:
            files = {
                "by diffusers": lora_files.by_diffusers(pipeline(), root / f"{name}-lora", seed=1),
                "in kohya's names": lora_files.by_kohya(pipeline(), root / f"{name}.safetensors", seed=2),
            }
        every = [{label: 1.0} for label in files]
        for scales in [*every, dict(zip(files, (0.7, 1.0) if name == "emoji" else (0.7, -0.4), strict=True))]:
            pipe = pipeline()
            for i, label in enumerate(scales):
                path = files[label]
                pipe.load_lora_weights(path.parent, weight_name=path.name, adapter_name=str(i))
            pipe.set_adapters([str(i) for i in range(len(scales))], list(scales.values()))
            options = {"num_inference_steps": 5, "guidance_scale": 5.0, "output_type": "np"}
            theirs = pipe(PROMPTS, generator=generators([3, 4]), **options).images
            lora = [f"{files[label]},scale={scale}" for label, scale in scales.items()]
            found = ours(folder, prompt=PROMPTS, steps=5, guidance_scale=5.0, seed=3, lora=lora)
            said = " and ".join(f"{label} ({scale:g})" for label, scale in scales.items())
            rows.append([name, said, f"{psnr(found, theirs):.0f} dB"])
    return table(["pipeline", "LoRA (scale)", "PSNR"], rows)


def from_pictures(folder: Path) -> str:
    """Tiny models that repaint a part of a picture, edit it, or follow a depth map."""
    import test_inpainting as inpainting
    import tiny
    import torch
    from PIL import Image

    from mlxdiff import StableDiffusion

    rows = []
    start, mask, size = inpainting.photo(), inpainting.box_mask(), inpainting.SIZE
    for name, (make, kind) in inpainting.MAKERS.items():
        place = tiny.write(make, folder / f"pictures-{name}")
        pipe = kind.from_pretrained(place)
        pipe.set_progress_bar_config(disable=True)
        sd = StableDiffusion(str(place), dtype="fp32")
        edits, depth = name.endswith("editing"), name == "depth"
        for strength in (None,) if edits else (0.8,) if depth else (0.5, 0.8, 1.0):
            common = {"guidance_scale": 4.0, **({} if strength is None else {"strength": strength})}
            more: dict[str, object] = {}
            own: dict[str, object] = {}
            if depth:
                levels = np.arange(1024, dtype=np.uint8).reshape(32, 32)
                more, own = (
                    {"depth_map": torch.from_numpy(levels.astype(np.float32))[None]},
                    {"depth": Image.fromarray(levels)},
                )
            elif not edits:
                more, own = {"mask_image": mask, **size}, {"mask": mask}
            elif name.startswith("sdxl"):
                more = dict(size)
            expected = inpainting.theirs(pipe, image=start, num_inference_steps=6, **common, **more)
            found = inpainting.raw(sd, image=start, steps=6, **common, **own, **size)
            shown = "" if strength is None else f"{strength:g}"
            rows.append([kind.__name__, name, shown, f"{inpainting.psnr(found, expected):.0f} dB"])
    return table(["diffusers' pipeline", "model", "strength", "PSNR"], rows)


def report() -> str:
    import tiny
    from diffusers import StableDiffusionPipeline, StableDiffusionXLPipeline

    with tempfile.TemporaryDirectory() as root:
        folders: dict[str, tuple[Path, type]] = {}
        for name, make in tiny.PIPELINES.items():
            kind = StableDiffusionPipeline if name.startswith("sd1") or name == "sd21" else StableDiffusionXLPipeline
            folders[name] = (tiny.write(make, Path(root) / name), kind)
        folders["emoji"] = (tiny.EMOJI, StableDiffusionPipeline)
        about = machine.describe("mlx", "mlxdiff", "torch", "diffusers", "transformers")
        return "\n\n".join(
            [
                f"Measured with `benchmarks/parity.py` on {machine.line(about)}.",
                "### Networks: largest relative error",
                parts(folders),
                "### Samplers: largest relative error in any step, worst of 5, 20 and 50 steps",
                samplers(),
                "### Schedules and prediction types: largest relative error in any of 20 steps",
                schedules(),
                "### k-diffusion's samplers, Karras schedule: largest relative error of the result",
                k_diffusion(),
                "### Prompts: largest relative error of the encoded prompt",
                prompts(),
                "### Whole pictures, two prompts each: peak signal-to-noise ratio",
                pictures(folders),
                "### Whole pictures with LoRAs, beside diffusers with PEFT: peak signal-to-noise ratio",
                loras(folders, Path(root)),
                "### Repainted, edited and depth-guided pictures, 6 steps, guidance 4: peak signal-to-noise ratio",
                from_pictures(Path(root)),
                "",
            ]
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--write", action="store_true", help="renew the tables of docs/parity.md")
    options = parser.parse_args()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        text = report()
    print(text)
    if options.write:
        pages.write("parity.md", "parity", text)


if __name__ == "__main__":
    main()
