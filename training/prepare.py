"""Makes folders of training pictures from folders of pictures: each in the layout that dataset.py reads.

    python training/prepare.py packages node_modules/ cut-out/   transparent pictures with names, out of npm packages
    python training/prepare.py compose cut-out/ pictures/        transparent pictures on colored backgrounds
    python training/prepare.py compose cut-out/ moved/ --move    the same, turned, smaller, aside
    python training/prepare.py pixelate pictures/ pixel-art/     a style: large square pixels of few colors
    python training/prepare.py edges pictures/                   what a ControlNet is shown, beside them

Needs the extra `train`.
"""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import given
import numpy as np
import packages as npm
import typer
from captions import article
from colors import GROUNDS
from given import METADATA
from PIL import Image

from mlxdiff.preprocess import canny

PLAIN = 0.6  # fraction of the pictures that stay on white, with a caption that names no background

app = typer.Typer(add_completion=False)
Source = Annotated[Path, typer.Argument(help="A folder with metadata.jsonl.")]
Output = Annotated[Path, typer.Argument(help="The folder to write.")]


@app.command()
def packages(
    modules: Annotated[Path, typer.Argument(help="The node_modules/ of an npm install.")],
    output: Output,
    size: Annotated[int, typer.Option(min=8, help="Pixels of each side.")] = 128,
    limit: Annotated[int | None, typer.Option(min=1, help="Only so many names.")] = None,
) -> None:
    """Draws the emoji of npm packages whose licenses allow it, each with its name, style and words."""
    found = npm.check(modules)
    npm.check_drawing()
    named = {each.code: each for each in npm.names(modules)[:limit]}
    lines = []
    for row in npm.SETS:
        drawn = ((named[code], draw) for code, draw in npm.pictures(modules, row, size) if code in named)
        (output / row.style).mkdir(parents=True, exist_ok=True)
        for each, draw in drawn:
            place = f"{row.style}/{each.code}.webp"
            draw().save(output / place, lossless=True, method=6)
            text = f"{article(each.name)}, {row.style} style"
            about = {"name": each.name, "style": row.style, "group": each.group}
            about |= {"tags": each.tags, "words": each.words}
            lines.append({"file_name": place, "text": text, **about})
    (output / "licenses.json").write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")
    _finish(output, lines)


@app.command()
def compose(
    source: Source,
    output: Output,
    move: Annotated[
        bool, typer.Option("--move", help="Turn, shrink, shift and mirror each picture at random.")
    ] = False,
    size: Annotated[int, typer.Option(min=8, help="Pixels of each side.")] = 128,
    seed: Annotated[int, typer.Option(help="Another seed gives other backgrounds and movements.")] = 0,
) -> None:
    """Puts transparent pictures on white and on colored backgrounds, which their captions name."""
    chance = random.Random(seed)
    lines = []
    for row, picture in _read(source):
        name, color = chance.choice(list(GROUNDS.items()))
        plain = chance.random() < PLAIN
        ground = Image.new("RGBA", (size, size), (255, 255, 255, 255) if plain else (*color, 255))
        cut = picture.convert("RGBA").resize((size, size), Image.Resampling.LANCZOS)
        ground.alpha_composite(_moved(cut, chance) if move else cut)
        text = row["text"] if plain else f"{row['text']} on a {name} background"
        lines.append(_write(output, row["file_name"], ground.convert("RGB"), text))
    _finish(output, lines)


@app.command()
def pixelate(source: Source, output: Output, cells: int = 16, colors: int = 12, trigger: str = "pixel art") -> None:
    """Makes pixel art: a grid of cells in a palette of its own for each picture; captions get the trigger."""
    lines = []
    for row, picture in _read(source):
        small = picture.convert("RGB").resize((cells, cells), Image.Resampling.BOX)
        small = small.quantize(colors, Image.Quantize.MEDIANCUT, dither=Image.Dither.NONE).convert("RGB")
        lines.append(
            _write(
                output,
                row["file_name"],
                small.resize(picture.size, Image.Resampling.NEAREST),
                f"{row['text']}, {trigger}",
            )
        )
    _finish(output, lines)


@app.command()
def edges(source: Source) -> None:
    """Draws each picture's edges, as `preprocess=canny` does, into SOURCE/edges, and names them in its metadata."""
    lines = []
    for row, picture in _read(source):
        (source / "edges").mkdir(exist_ok=True)
        place = f"edges/{_flat(row['file_name'])}.png"
        Image.fromarray(canny(np.asarray(picture.convert("RGB")))).convert("1").save(source / place)
        lines.append({**row, "conditioning_image": place})
    _finish(source, lines)


def _moved(picture: Image.Image, chance: random.Random) -> Image.Image:
    """The picture mirrored or not, turned by up to 30 degrees, at 0.5 to 1 of its size, somewhere on its ground."""
    size = picture.width
    if chance.random() < 0.5:
        picture = picture.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    picture = picture.rotate(chance.uniform(-30, 30), Image.Resampling.BICUBIC)
    side = round(size * chance.uniform(0.5, 1))
    ground = Image.new("RGBA", (size, size), (0, 0, 0, 0))
    place = (chance.randint(0, size - side), chance.randint(0, size - side))
    ground.paste(picture.resize((side, side), Image.Resampling.LANCZOS), place)
    return ground


def _read(source: Path) -> Iterator[tuple[dict[str, Any], Image.Image]]:
    """The lines of a folder, each with its picture."""
    remedy = "Write one line of JSON for each picture: file_name and text."
    for row in given.rows(source, ("file_name", "text"), remedy):
        yield row, given.picture(source / row["file_name"])


def _flat(name: str) -> str:
    """A file's name without its ending, and with its folder's name before: "3d/apple.webp" is "3d-apple"."""
    return "-".join(Path(name).with_suffix("").parts)


def _write(output: Path, name: str, picture: Image.Image, text: str) -> dict[str, str]:
    output.mkdir(parents=True, exist_ok=True)
    name = f"{_flat(name)}.png"
    picture.save(output / name)
    return {"file_name": name, "text": text}


def _finish(output: Path, lines: list[dict[str, Any]]) -> None:
    text = "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines)
    (output / METADATA).write_text(text, encoding="utf-8")
    print(f"{output}: {len(lines)} pictures")


if __name__ == "__main__":
    app()
