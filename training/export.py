"""Puts what train_vae.py and train_unet.py wrote together into one checkpoint: diffusers layout, fp16.

python training/export.py work/ emoji/
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Annotated

import given
import torch
import typer
from denoising import BUILT_IN
from diffusers import AutoencoderKL, UNet2DConditionModel
from permissions import follow_umask
from transformers import CLIPTextModel

COPIED = ("model_index.json", "mlxdiff.json", "scheduler", "tokenizer")
"""What does not change from one training to the next."""


def main(
    work: Annotated[Path, typer.Argument(help="The folder with vae/, unet/ and text_encoder/.")],
    output: Annotated[Path, typer.Argument(help="The folder to write.")],
    model: Annotated[Path, typer.Option(help="Where the tokenizer and the scheduler come from.")] = BUILT_IN,
) -> None:
    """Writes the parts in WORK to OUTPUT."""
    kinds = {"vae": AutoencoderKL, "unet": UNet2DConditionModel, "text_encoder": CLIPTextModel}
    missing = [name for name in kinds if not (work / name / "config.json").is_file()]
    if missing:
        raise SystemExit(f"There is no {work / missing[0]}. Run training/train_{missing[0]}.py first.")
    given.make(output)
    counts = {}
    for name, kind in kinds.items():
        part = given.part(kind, work / name, dtype=torch.float16)
        part.save_pretrained(output / name)
        follow_umask(output / name)
        _forget_place(output / name / "config.json")
        counts[name] = sum(value.numel() for value in part.parameters())
    for name in COPIED:
        source = model / name
        if source.is_dir():
            shutil.copytree(source, output / name, dirs_exist_ok=True)
        elif source.is_file():
            shutil.copyfile(source, output / name)
    size = sum(path.stat().st_size for path in output.rglob("*") if path.is_file())
    print(f"{output}: {size / 1e6:.1f} MB, parameters {json.dumps(counts)}")


def _forget_place(config: Path) -> None:
    """diffusers records the folder from which a part was read."""
    values = json.loads(config.read_text(encoding="utf-8"))
    values.pop("_name_or_path", None)
    config.write_text(json.dumps(values, indent=2, sort_keys=True) + "\n", encoding="utf-8")


if __name__ == "__main__":
    typer.run(main)
