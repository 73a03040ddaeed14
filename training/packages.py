"""Emoji out of npm packages: one picture for each name and style, and the words that mean it.

A set of pictures is a row of SETS; its license must be in ALLOWED, in the package itself, not only here.
"""

from __future__ import annotations

import io
import json
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from PIL import Image

ALLOWED = {"MIT", "Apache-2.0", "CC-BY-4.0", "CC0-1.0"}
"""Licenses under which weights trained on the pictures may be passed on, with a notice. Share-alike is not one."""

LEFT_OUT = re.compile(
    r"japanese .* button|keycap|oclock|thirty|facing right|head shaking|regional indicator|tone$"
    r"|^family .+|^(kiss|couple with heart) (wo)?man|^(a|b|ab|o|p|cl|id|ng|up|vs|new|ok|cool|free|sos)( button.*)?$"
)
"""Names whose pictures are letters, or differ from another's by the hand of a clock, a direction or who is in it."""


@dataclass(frozen=True)
class PictureSet:
    """A package of pictures in one style, and what its license asks to be said."""

    style: str
    package: str
    version: str
    license: str
    notice: str


SETS = (
    PictureSet(
        "3d",
        "@lobehub/fluent-emoji-3d",
        "1.1.0",
        "MIT",
        "Fluent Emoji 3D, Copyright (c) Microsoft Corporation; the package Copyright (c) 2023 LobeHub",
    ),
    PictureSet(
        "flat",
        "@iconify-json/fluent-emoji-flat",
        "1.2.6",
        "MIT",
        "Fluent Emoji flat, Copyright (c) Microsoft Corporation",
    ),
    PictureSet("noto", "@iconify-json/noto", "1.2.9", "Apache-2.0", "Noto Emoji, Copyright 2013 Google, Inc."),
    PictureSet(
        "twemoji",
        "@iconify-json/twemoji",
        "1.2.5",
        "CC-BY-4.0",
        "Twemoji, Copyright 2019 Twitter, Inc and other contributors, Copyright 2024 jdecked and other contributors",
    ),
)
WORDS = (
    PictureSet("", "emojibase-data", "17.0.0", "MIT", "Unicode CLDR names and tags, (c) Miles Johnson"),
    PictureSet("", "emojilib", "4.0.3", "MIT", "Keywords of emoji, Copyright (c) 2014 Mu-An Chiou"),
)


@dataclass(frozen=True)
class Named:
    """What Unicode calls an emoji: its code points in hex, its name, its group (0 to 9), its tags, and more words."""

    code: str
    name: str
    group: int
    tags: tuple[str, ...]
    words: tuple[str, ...]


def check(modules: Path) -> list[dict[str, str]]:
    """The packages under node_modules/ with the license that each states.

    Raises SystemExit where one is missing, has another version, or a license that is not allowed.
    """
    found = []
    for row in (*SETS, *WORDS):
        path = modules / row.package / "package.json"
        if not path.is_file():
            every = " ".join(f"{each.package}@{each.version}" for each in (*SETS, *WORDS))
            raise SystemExit(f"There is no {path}. Run: npm install --ignore-scripts {every}")
        stated = json.loads(path.read_text(encoding="utf-8"))
        if stated.get("license") != row.license or row.license not in ALLOWED:
            raise SystemExit(f"{row.package} has the license {stated.get('license')}, not {row.license}. Leave it out.")
        if stated.get("version") != row.version:
            raise SystemExit(f"{row.package} is {stated.get('version')}. Install {row.package}@{row.version}.")
        found.append(asdict(row))
    return found


def check_drawing() -> None:
    """Raises SystemExit where nothing can draw SVG."""
    if find_spec("resvg_py") is None:
        raise SystemExit("Drawing SVG needs resvg-py. Run: pip install resvg-py")


def names(modules: Path) -> list[Named]:
    """Every emoji but flags of countries, skin tones and LEFT_OUT."""
    entries = json.loads((modules / "emojibase-data" / "en" / "data.json").read_text(encoding="utf-8"))
    keywords = json.loads((modules / "emojilib" / "dist" / "emoji-en-US.json").read_text(encoding="utf-8"))
    keywords = {symbol.replace("\ufe0f", ""): words for symbol, words in keywords.items()}
    found = []
    for entry in entries:
        name = plain(entry["label"])
        flag = name.startswith("flag ")
        if entry.get("group") in (None, 2) or flag or LEFT_OUT.search(name):
            continue
        tags = _words(entry.get("tags", ()), name)
        more = _words(keywords.get(entry["emoji"].replace("\ufe0f", ""), ()), name)
        words = tuple(word for word in more if word not in tags)
        found.append(Named(_code(entry["hexcode"]), name, entry["group"], tags, words))
    return found


def _words(given: Iterable[str], name: str) -> tuple[str, ...]:
    """One or two words of letters each, other than the name."""
    words = dict.fromkeys(plain(word) for word in given)
    return tuple(word for word in words if re.fullmatch(r"[a-z]{2,}( [a-z]+)?", word) and word != name)


def plain(text: str) -> str:
    """Lower case, letters and digits alone: "Woman's hat" is "womans hat"."""
    return re.sub(r"[^a-z0-9]+", " ", re.sub("['’]", "", text.lower())).strip()


def pictures(modules: Path, row: PictureSet, size: int) -> Iterator[tuple[str, Callable[[], Image.Image]]]:
    """(code, how to draw it) of each picture of a set: transparent, size x size."""
    folder = modules / row.package
    if (folder / "assets").is_dir():
        files = {_code(path.stem): path for path in sorted((folder / "assets").glob("*.webp"))}
        for code, path in files.items():
            yield code, lambda path=path: _resized(path, size)
        return
    icons = json.loads((folder / "icons.json").read_text(encoding="utf-8"))
    codes = json.loads((folder / "chars.json").read_text(encoding="utf-8"))
    for code, name in {_code(code): name for code, name in codes.items()}.items():
        name = icons.get("aliases", {}).get(name, {}).get("parent", name)
        if name in icons["icons"]:
            yield code, lambda name=name: _drawn(icons, name, size)


def _code(text: str) -> str:
    """Code points in one spelling: no leading zeros, no variation selectors."""
    return "-".join(part.lstrip("0") for part in text.lower().split("-") if part != "fe0f")


def _resized(path: Path, size: int) -> Image.Image:
    return Image.open(path).convert("RGBA").resize((size, size), Image.Resampling.LANCZOS)


def _drawn(icons: dict[str, Any], name: str, size: int) -> Image.Image:
    """An icon of Iconify's JSON, drawn at twice its size and averaged."""
    import resvg_py

    icon = icons["icons"][name]
    width, height = (icon.get(side, icons.get(side, 16)) for side in ("width", "height"))
    text = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}">{icon["body"]}</svg>'
    data = resvg_py.svg_to_bytes(svg_string=text, width=2 * size, height=2 * size)
    return _square(Image.open(io.BytesIO(bytes(data))).convert("RGBA"), 2 * size).resize(
        (size, size), Image.Resampling.BOX
    )


def _square(picture: Image.Image, size: int) -> Image.Image:
    """The picture in the middle of a transparent square."""
    if picture.size == (size, size):
        return picture
    ground = Image.new("RGBA", (size, size), (0, 0, 0, 0))
    ground.paste(picture, ((size - picture.width) // 2, (size - picture.height) // 2))
    return ground
