"""Makes the pictures in docs/images anew, after the built-in weights or what a picture shows has changed.

A page's commands are run as they stand above its picture. Here is only what no page says: which prompts are on the
README's sheet, which pictures stand beside each other, what is typed in the shell and clicked in the gallery.
    python docs/make_images.py [NAME...]     # such as control.png; without a name all of them
Screens of terminals need tmux, those of browsers chromium and chromedriver. No picture needs a network.
"""

from __future__ import annotations

import argparse
import io
import json
import math
import os
import random
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

DOCS = Path(__file__).parent
IMAGES = DOCS / "images"
sys.path += [str(DOCS), str(DOCS.parent / "tests")]

from browser import chromium  # noqa: E402
from terminal_screen import drawn, screen  # noqa: E402
from terminals import Terminal  # noqa: E402

from mlxdiff.files import atomic_write  # noqa: E402

Maker = Callable[[Path], None]  # writes its pictures into the empty folder

SHEET = """\
a red apple
a robot on a yellow background
a unicorn
a snowman on a blue background
a castle
a ghost on a purple background
a sunflower on a teal background
a fox
a cactus on an orange background
a cat with sunglasses
a birthday cake on a pink background
a mushroom
"""

SESSION = (
    "a red apple",
    "/preview on",
    "/again 4",
    "/seed last",
    "/lora pixel-art,scale=0.8",
    "/preview off",
    "a {red|green} castle --steps 30",
    "/stpes 40",
)

THINGS = (
    *("red apple", "dog face", "rocket", "fox", "tomato", "pumpkin", "sunflower", "whale", "lemon", "owl", "ghost"),
    *("sailboat", "mushroom", "strawberry", "slice of pizza", "hamburger", "airplane", "tulip", "rainbow", "robot"),
    *("alien", "crown", "guitar", "avocado", "frog", "panda", "tiger face", "lady beetle", "teddy bear", "cactus"),
)


def blocks_before(page: str, image: str) -> str:
    """The commands that stand above the picture on docs/PAGE.md: its last block of code before the picture."""
    above = (DOCS / f"{page}.md").read_text().split(f"](images/{image})")[0]
    return re.findall(r"^```(?:bash|sh)?\n(.*?)^```$", above, re.MULTILINE | re.DOTALL)[-1]


def run(commands: str, folder: Path) -> None:
    subprocess.run(["bash", "-e", "-c", commands], cwd=folder, check=True)


@dataclass(frozen=True)
class OfPage:
    """The page's commands for these pictures, and then others, which give the pictures their names."""

    page: str
    images: tuple[str, ...]
    then: str = ""

    def __call__(self, folder: Path) -> None:
        for commands in dict.fromkeys(blocks_before(self.page, image) for image in self.images):
            run(commands, folder)
        run(self.then, folder)


def sheet(folder: Path) -> None:
    (folder / "prompts.txt").write_text(SHEET)
    run("mlxdiff generate --prompts-file prompts.txt --seed 4 -o out/", folder)
    run("mlxdiff grid out/ --n-rows 2 -o readme-sheet.png", folder)


def preview(folder: Path) -> None:
    size = rows, columns = 40, 85
    words = shlex.split(blocks_before("generate", "preview.png"))[1:]
    with Terminal(folder, *words, size=size, COLORTERM="truecolor", MLXDIFF_PREVIEW="blocks") as terminal:
        # The picture that belongs to the tenth step, and the bars below it.
        written = "".join(terminal.until(text, 600) for text in ("10/25", "0/3", "left"))
    drawn(screen(written.encode(), rows, columns), columns, "mlxdiff generate").save(folder / "preview.png")


def shell(folder: Path) -> None:
    size = rows, columns = 70, 80
    with Terminal(folder, "generate", size=size, COLORTERM="truecolor", MLXDIFF_PREVIEW="blocks") as terminal:
        terminal.until("mlxdiff> ", 600)
        for line in SESSION:
            terminal.answer(line, 600)
        written = terminal.received
    drawn(screen(written, rows, columns), columns, "mlxdiff generate").save(folder / "shell.png")


def gallery_prompts() -> Iterable[str]:
    """72 lines of JSON with settings that a gallery can tell apart."""
    chance = random.Random(3)
    for i in range(72):
        style = chance.choice(("3d style", "3d style", "flat style", "noto style", "twemoji style"))
        thing = THINGS[i % len(THINGS)]
        named = f"an {thing}" if thing[0] in "aeiou" else f"a {thing}"
        settings = {
            "prompt": f"{named} on a blue background" if i % 6 == 5 else f"{named}, {style}",
            "seed": chance.randrange(2**32),
            "steps": chance.choice((10, 15, 20)),
            "guidance_scale": chance.choice((1.5, 2, 4)),
            "sampler": chance.choice(("euler", "unipc", "ddim")),
        }
        settings |= {"negative_prompt": "blurry, dark"} if i % 4 == 3 else {}
        settings |= {"lora": ["pixel-art,scale=0.8"]} if i % 9 == 8 else {}
        yield json.dumps(settings)


def gallery(folder: Path) -> None:
    (folder / "prompts.jsonl").write_text("".join(f"{line}\n" for line in gallery_prompts()))
    run("mlxdiff generate --prompts-file prompts.jsonl -o emoji/", folder)
    run("mlxdiff grid emoji/ --html gallery.html", folder)
    search = "document.getElementById('query').value = arguments[0]; document.getElementById('search').requestSubmit()"
    change = (
        "const e = document.getElementById(arguments[0]); e.value = arguments[1]; e.dispatchEvent(new Event('change'))"
    )
    with chromium() as browser:
        browser.size(1200, 700 + browser.run("return window.outerHeight - window.innerHeight"))
        browser.open(folder / "gallery.html")
        browser.wait("return document.readyState === 'complete'")

        def save(name: str) -> None:
            browser.run("document.activeElement.blur()")
            time.sleep(1)  # for thumbnails to be decoded
            taken = Image.open(io.BytesIO(browser.screenshot())).convert("RGB")
            taken.save(folder / name, quality=82, method=6)

        browser.run(search, "style -pixel sampler=euler,unipc")
        browser.run(change.replace("'change'", "'input'"), "side", "128")
        for i in (2, 3, 8):
            browser.click(".check", i)
        save("gallery-light.webp")
        browser.run("document.getElementById('deselect').click()")
        browser.run(change, "theme", "dark")
        browser.run(search, "fox")
        browser.click(".tile")
        save("gallery-dark.webp")


def faster(folder: Path) -> None:
    """The two sheets, and the page's tables of how far their pictures are from the exact one."""
    for image in ("faster.png", "faster-merging.png"):
        run(f"{blocks_before('faster', image).strip()} --save-cells cells", folder)
        (folder / "cells").rename(folder / image.removesuffix(".png"))
    pictures: dict[tuple[float, ...], np.ndarray] = {}
    for path in folder.glob("*/*.png"):
        with Image.open(path) as picture:
            made = json.loads(picture.info["mlxdiff"])
            values = (("cache_interval", 1), ("guidance_end", 1), ("token_merging", 0))
            pictures[tuple(made.get(name, off) for name, off in values)] = np.asarray(picture, np.float64)

    def row(found: re.Match[str]) -> str:
        interval, end, merging = (None if value is None else float(value) for value in found.group(2, 3, 4))
        differs = pictures[interval or 1, end or 1, merging or 0] - pictures[1, 1, 0]
        return f"{found[1]}{10 * math.log10(255**2 / np.mean(differs**2)):.1f} dB |"

    page = DOCS / "faster.md"
    rows = r"^(\| (?:(\d) \| ([\d.]+) \| \d+ %|(0\.\d+)) \| )[\d.]+ dB \|$"
    text = re.sub(rows, row, page.read_text(), flags=re.MULTILINE)
    atomic_write(page, lambda stream: stream.write(text.encode()), force=True)


CONTROL = """
like='--seed 1 --control emoji-edges=apple.png,preprocess=canny'
mlxdiff generate "a tangerine on a blue background" $like -o tangerine.png
mlxdiff generate "a mango" $like,end=0.6 -o mango.png
mlxdiff generate "a mango" --seed 1 -o free.png
python -c "
from mlxdiff import images, preprocess
images.write_picture('edges.png', preprocess.canny(images.to_uint8(images.load_picture('apple.png')), 100, 200))"
mlxdiff grid apple.png edges.png green.png tangerine.png mango.png free.png --n-rows 1 -o control.png
"""
DECODE = """
mv dog.webp decode-dog.webp
mlxdiff grid step-{000,002,004,006,008,011}.png --n-rows 1 -o decode-steps.png
"""
INPAINT = """
mlxdiff generate "a smiling face on a purple background" --image half.png --expand 0,0,64,0 --seed 2 -o whole-2.png
mlxdiff grid face.png mask.png tongue.png medical.png --n-rows 1 -o inpaint.png
mlxdiff grid half.png whole.png whole-2.png --n-rows 1 -o outpaint.png
"""
# A sheet of many or large pictures in 256 colors, which halves it.
LIGHTER = "python -c \"from PIL import Image; name = '{0}'; Image.open(name).quantize(256).save(name)\""
ALL: dict[tuple[str, ...], Maker] = {
    ("readme-sheet.png",): sheet,
    ("preview.png",): preview,
    ("shell.png",): shell,
    ("gallery-light.webp", "gallery-dark.webp"): gallery,
    ("faster.png", "faster-merging.png"): faster,
}
ALL |= {
    shown.images: shown
    for shown in (
        OfPage("faster", ("few-steps.png",)),
        OfPage("generate", ("apple.png",)),
        OfPage("grid", ("grid-sweep.png",), "mv sweep.png grid-sweep.png"),
        OfPage("decode", ("decode-dog.webp", "decode-steps.png"), DECODE),
        OfPage("inpainting", ("inpaint.png", "outpaint.png"), INPAINT),
        OfPage("control", ("control.png",), CONTROL),
        OfPage("lora", ("lora-scales.png",), "mv scales.png lora-scales.png"),
        OfPage("stages", ("stages.png",), LIGHTER.format("stages.png")),
        OfPage("recipes", ("samplers.png",), LIGHTER.format("samplers.png")),
    )
}
NEEDS = {"preview.png": ("tmux",), "shell.png": ("tmux",), "gallery-light.webp": ("chromium", "chromedriver")}


def prepared(folder: Path) -> None:
    """From here on `mlxdiff` and `python` are those that run this script, and nobody's own settings hold."""
    (folder / "bin").mkdir()
    for name, arguments in (("mlxdiff", "-m mlxdiff "), ("python", "")):
        program = folder / "bin" / name
        program.write_text(f'#!/bin/sh\nexec {shlex.quote(sys.executable)} {arguments}"$@"\n')
        program.chmod(0o755)
    for name in [name for name in os.environ if name.startswith("MLXDIFF_")]:
        del os.environ[name]
    os.environ |= {
        "PATH": f"{folder / 'bin'}{os.pathsep}{os.environ['PATH']}",
        "MLXDIFF_HOME": str(folder / "home"),
        "MLXDIFF_CONFIG": os.devnull,
        "MLXDIFF_MODEL": "emoji",  # no note that it is the built-in one
    }


def main() -> None:
    names = [name for group in ALL for name in group]
    parser = argparse.ArgumentParser(description="Makes the pictures in docs/images anew.")
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"{', '.join(names)}; default: all")
    wanted = set(parser.parse_args().names) or set(names)
    if unknown := wanted.difference(names):
        parser.error(f"there is no {', '.join(sorted(unknown))}; there are {', '.join(names)}")
    groups = [group for group in ALL if wanted.intersection(group)]
    missing = {tool for group in groups for tool in NEEDS.get(group[0], ()) if shutil.which(tool) is None}
    if missing:
        parser.error(f"{', '.join(sorted(missing))} must be on PATH; or name the pictures that need none of it")
    with tempfile.TemporaryDirectory(prefix="mlxdiff-images-") as temporary:
        prepared(Path(temporary))
        for group in groups:
            folder = Path(temporary, Path(group[0]).stem)
            folder.mkdir()
            start = time.monotonic()
            ALL[group](folder)
            for name in wanted.intersection(group):
                made = (folder / name).read_bytes()
                atomic_write(IMAGES / name, lambda stream, made=made: stream.write(made), force=True)
                print(f"{name}: {len(made) / 1000:.0f} kB, {time.monotonic() - start:.0f} s", flush=True)


if __name__ == "__main__":
    main()
