"""How long a gallery of many pictures takes to be written, to open in Chromium, to scroll, search and sort.

    python benchmarks/gallery.py [--count 10000] [--photos] [--runs 5]

It renders eight emoji, or with --photos takes four of scikit-image's photographs, and copies them with other settings
in their metadata. Each run opens the page in a new browser with an empty profile. Needs chromium and chromedriver. The
table goes into docs/gallery.md.
"""

from __future__ import annotations

import argparse
import math
import random
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
from browser import MISSING, Browser, chromium

from mlxdiff import StableDiffusion
from mlxdiff.images import write_picture
from mlxdiff.metadata import picture_text, request_of
from mlxdiff.request import Request

PROMPTS = ("red apple", "cat face", "rocket", "castle", "owl", "guitar", "snowman", "fox")
ADJECTIVES = ("shiny", "tiny", "old", "golden", "striped", "frozen", "neon", "wooden")
SCREEN = 24  # tiles that are to be seen
# Run before the page's own script: when pictures are on the screen, and when all are known.
PROBE = """
window.times = {};
(function look() {
  const images = [...document.querySelectorAll(".tile img")];
  if (images.filter((each) => each.complete && each.naturalWidth).length >= SCREEN) times.screen = performance.now();
  else requestAnimationFrame(look);
})();
document.addEventListener("DOMContentLoaded", () => requestAnimationFrame(() => (times.all = performance.now())));
"""
SCROLL = """
const done = arguments[1], scroller = document.getElementById("scroller"), frames = [];
let last = performance.now(), seen = 0, empty = 0;
requestAnimationFrame(function frame(now) {
  frames.push(now - last);
  last = now;
  scroller.scrollTop += step;
  const { top, bottom } = scroller.getBoundingClientRect();
  for (const image of document.querySelectorAll(".tile img")) {
    const place = image.getBoundingClientRect();
    if (place.bottom <= top || place.top >= bottom) continue;
    seen += 1;
    empty += !(image.complete && image.naturalWidth);
  }
  if (frames.length < 200) requestAnimationFrame(frame);
  else done([frames.slice(1), empty / seen]);
});
"""
ASK = """
const [id, value, done] = arguments, input = document.getElementById(id), start = performance.now();
input.value = value;
if (id === "query") document.getElementById("search").requestSubmit();
else input.dispatchEvent(new Event("change"));
requestAnimationFrame(() => setTimeout(() => done(performance.now() - start)));
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=10_000)
    parser.add_argument("--photos", action="store_true")
    parser.add_argument("--runs", type=int, default=5)
    given = parser.parse_args()
    if MISSING is not None:
        sys.exit(f"This {MISSING}.")
    with tempfile.TemporaryDirectory(prefix="mlxdiff-gallery-") as name:
        folder = Path(name)
        make(folder / "pictures", given.count, photos=given.photos)
        for label in ("write it", "write it again"):
            seconds, megabytes = written(folder)
            print(f"{label}: {seconds:.1f} s, {megabytes:.0f} MB of memory")
        print(f"page: {(folder / 'gallery.html').stat().st_size / 1e6:.1f} MB")
        opened = [measured(folder / "gallery.html", also=run == 0) for run in range(given.runs)]
        for key in ("screen", "all"):
            print(f"{key}: {statistics.median(times[key] for times in opened):.0f} ms")


def make(folder: Path, count: int, *, photos: bool) -> None:
    chance = random.Random(5)
    sources = list(_photos() if photos else _emoji())
    for i in range(count):
        pixels, request = sources[i % len(sources)]
        words = str(request.prompt).split(" ")
        made = replace(
            request,
            prompt=" ".join([words[0], chance.choice(ADJECTIVES), *words[1:]]),
            seed=chance.randrange(2**32),
            steps=chance.choice([8, 12, 20, 30, 50]),
            sampler=chance.choice(["euler", "ddim", "dpmpp_2m", "unipc"]),
        )
        path = folder / f"day-{i // 2500}" / f"{i:05}.{'jpg' if photos else 'png'}"
        path.parent.mkdir(parents=True, exist_ok=True)
        write_picture(path, pixels, picture_text(made))


def _emoji() -> Iterator[tuple[np.ndarray, Request]]:
    sd = StableDiffusion("emoji")
    for prompt in PROMPTS:
        (picture,) = sd.generate(f"a {prompt}", seed=1, steps=8)
        yield np.asarray(picture), request_of(picture.info["mlxdiff"])


def _photos() -> Iterator[tuple[np.ndarray, Request]]:
    from PIL import Image
    from skimage import data

    for name in ("astronaut", "coffee", "chelsea", "rocket"):
        picture = Image.fromarray(getattr(data, name)()[..., :3]).resize((512, 512))
        yield np.asarray(picture), Request(f"a photo of {name}", model="emoji", seed=1, steps=20)


def written(folder: Path) -> tuple[float, float]:
    """Seconds, and the peak of the process' memory in MB; NaN where the system does not tell."""
    program = (
        "import sys; from pathlib import Path; from mlxdiff.cli.app import main\n"
        "try: main(sys.argv[1:])\n"
        "finally: print(*(s for s in Path('/proc/self/status').read_text().splitlines() if 'VmHWM' in s))"
    )
    command = [sys.executable, "-c", program, "grid", "pictures", "--html", "gallery.html", "--force", "--quiet"]
    start = time.perf_counter()
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True)
    seconds = time.perf_counter() - start
    found = re.search(r"VmHWM:\s*([0-9]+) kB", done.stdout)
    return seconds, math.nan if found is None else int(found[1]) * 1024 / 1e6


def measured(page: Path, *, also: bool) -> dict[str, float]:
    """When the first screen and all pictures were there, in ms; `also` prints what the rest takes."""
    with chromium() as browser:
        browser.size(1400, 900)
        source = PROBE.replace("SCREEN", str(SCREEN))
        browser.ask(
            *("POST", "goog/cdp/execute"), cmd="Page.addScriptToEvaluateOnNewDocument", params={"source": source}
        )
        browser.open(page)
        browser.wait("return window.times?.all && times.screen", 120)
        time.sleep(1)
        times = browser.run("return times")
        if also:
            for step in (60, 400, 3000):
                frames, empty = _answer(browser, f"const step = arguments[0]; {SCROLL}", step)
                long = sorted(frames)[int(0.95 * len(frames))]
                print(
                    f"scroll {step} pixels a frame: {statistics.median(frames):.0f} ms, "
                    f"95 % below {long:.0f} ms, {empty:.1%} of the tiles empty"
                )
            for id, value in (("query", "apple"), ("query", "steps>20 sampler=euler"), ("query", ""), ("sort", "seed")):
                print(f"{id} {value!r}: {_answer(browser, ASK, id, value):.0f} ms")
        return times


def _answer(browser: Browser, script: str, *arguments: Any) -> Any:
    return browser.ask("POST", "execute/async", script=script, args=list(arguments))


if __name__ == "__main__":
    main()
