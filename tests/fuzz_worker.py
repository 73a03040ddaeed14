"""Loads mutated checkpoints, one a seed, and says what became of each; run as a process, since one might crash.

    python tests/fuzz_worker.py MODELS SCRATCH FIRST COUNT

MODELS holds sound checkpoints, one a folder. A line `start SEED FILE` goes out before each, `end SEED OUTCOME` after:
`loaded`, `refused NAME`, or `FAILED` and what happened. `test_fuzz.py` reads them.
"""

from __future__ import annotations

import faulthandler
import os
import random
import resource
import shutil
import signal
import sys
import traceback
import warnings
from pathlib import Path

import mlx.core as mx
from mutations import mutate

from mlxdiff import Request, StableDiffusion
from mlxdiff.errors import MlxdiffError

SECONDS = 20  # of computing, for one checkpoint
MEMORY = 2**30  # bytes over what the sound checkpoints took
LONGEST_MESSAGE = 2000

PLACES = ("directory", "loop", "dangling", "device", "pipe", "gone")


def files_of(model: Path) -> list[str]:
    return sorted(
        path.relative_to(model).as_posix() for path in model.rglob("*") if path.is_file() and not is_text(path)
    )


def is_text(path: Path) -> bool:
    return path.suffix not in (".json", ".txt", ".safetensors")


def spoil(model: Path, name: str, target: Path, rng: random.Random) -> None:
    """A copy of the model, of links but for the one file that is mutated, or is no file any more."""
    shutil.rmtree(target, ignore_errors=True)
    for path in model.rglob("*"):
        place = target / path.relative_to(model)
        if path.is_dir():
            place.mkdir(parents=True, exist_ok=True)
        elif path.relative_to(model).as_posix() != name:
            place.parent.mkdir(parents=True, exist_ok=True)
            place.symlink_to(path)
    place = target / name
    if rng.random() < 0.97:
        place.write_bytes(mutate(name, (model / name).read_bytes(), rng))
        return
    match rng.choice(PLACES):
        case "directory":
            place.mkdir()
        case "loop":
            place.symlink_to(place.name)
        case "dangling":
            place.symlink_to("nowhere")
        case "device":
            place.symlink_to("/dev/zero")
        case "pipe":
            os.mkfifo(place)


def use(folder: Path, name: str) -> None:
    """Loads the checkpoint as a caller would, and runs the network that the file belongs to on next to nothing."""
    sd = StableDiffusion(str(folder), dtype="float32")
    for sampler in (None, "euler", "dpmpp_2m"):
        sd.resolve(Request(prompt="a red apple", seed=0, sampler=sampler))
    part = name.split("/")[0]
    if part in ("text_encoder", "tokenizer"):
        mx.eval(sd.encode_prompt("a red apple! <|endoftext|> ÄÖ 1234").arrays())
    elif part == "vae":
        cells = mx.zeros((1, 2, 2, sd.checkpoint.vae.latent_channels))
        mx.eval(
            sd.decode(cells),
            sd.encode(
                mx.zeros(
                    (
                        1,
                        2 * sd.checkpoint.scale_factor,
                    )
                    * 2
                    + (3,)
                )[:, :, 0]
            ),
        )
    elif part == "unet":
        config = sd.checkpoint.backbone
        context = mx.zeros((1, 77, max(config.cross_attention_dim)))
        mx.eval(sd.networks.backbone.network(mx.zeros((1, 8, 8, config.in_channels)), mx.array(500.0), context))


def outcome(models: list[Path], seed: int, scratch: Path) -> str:
    rng = random.Random(seed)
    model = rng.choice(models)
    # All shards of a component count as one file, or there would be little else.
    kinds: dict[str, list[str]] = {}
    for name in files_of(model):
        kinds.setdefault(f"{name.split('/')[0]}/weights" if name.endswith(".safetensors") else name, []).append(name)
    name = rng.choice(rng.choice(list(kinds.values())))
    print("start", seed, f"{model.name}/{name}", flush=True)
    spoil(model, name, scratch, rng)
    try:
        use(scratch, name)
    except MlxdiffError as error:
        sentences = (error.problem.strip(), error.remedy.strip())
        if not all(sentences) or len(str(error)) > LONGEST_MESSAGE:
            return f"FAILED with {len(str(error))} letters: {str(error)[:300]!r}"
        return f"refused {type(error).__name__}"
    except BaseException:  # whatever it is, it is the finding
        return f"FAILED {traceback.format_exc()[-1500:]!r}"
    return "loaded"


def most_memory() -> int:
    """The most bytes that were ever resident in this process."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def main() -> None:
    models = sorted(path for path in Path(sys.argv[1]).iterdir() if path.is_dir())
    scratch = Path(sys.argv[2])
    first, count = int(sys.argv[3]), int(sys.argv[4])
    warnings.simplefilter("ignore")
    for model in models:
        for part in ("text_encoder", "vae", "unet"):
            use(model, part)
    baseline = most_memory()
    if sys.platform == "linux":  # so that a finding does not take the machine with it
        used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (used + 4 * MEMORY, used + 4 * MEMORY))
    for seed in range(first, first + count):
        signal.setitimer(signal.ITIMER_PROF, SECONDS)
        said = outcome(models, seed, scratch)
        signal.setitimer(signal.ITIMER_PROF, 0)
        grown = most_memory() - baseline
        if grown > MEMORY:
            said = f"FAILED with {grown / 2**20:.0f} MiB, after: {said}"
            baseline = most_memory()
        print("end", seed, said, flush=True)


if __name__ == "__main__":
    faulthandler.enable()
    faulthandler.register(signal.SIGPROF, chain=True)  # says where it was, and ends
    main()
