"""Settings by the names that people give them in lines and tables: mlxdiff's own, and A1111's.

    a cat --steps 20 --cfg_scale 6 --negative_prompt "blurry, dark"
    --prompt "a cat" --sampler_name "DPM++ 2M" --subseed 7 --subseed_strength 0.2

A1111's script "Prompts from file or textbox" reads lines that begin with an option; here the prompt may also stand in
front. Values are text, and each setting's declaration reads its own.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterable, Iterator
from math import prod
from typing import Any

from ..errors import MlxdiffWarning, RequestError
from ..request import Request
from ..request.declarations import Choice, Setting, declared, nearest, setting_called, shown

SETTINGS = {item.name: item for item in declared(Request) if item.scope != "record"}
OUTPUT = "output"

_OPTION = re.compile(r"(?:^|(?<=\s))--([A-Za-z][\w-]*)(?=[\s=]|$)")
_QUOTED = re.compile(r"\"((?:[^\"\\]|\\.)*)\"|'([^']*)'", re.DOTALL)
_TEXTS = ("prompt", "negative_prompt")  # whose value goes on to the next option

# A1111's names of settings, beside those of its picture texts, which are declared.
_OTHERS = {
    "cfg_scale": "guidance_scale",
    "sampler_name": "sampler",
    "sampler_index": "sampler",
    "scheduler": "schedule",
    "denoising_strength": "strength",
    "subseed": "variation_seed",
    "subseed_strength": "variation_strength",
    "clip_stop_at_last_layers": "clip_skip",
    "sd_model": "model",
    "sd_model_checkpoint": "model",
    "sd_vae": "vae",
}
_IMAGES = ("batch_size", "n_iter")  # which are multiplied
_RESIZE = ("seed_resize_from_w", "seed_resize_from_h")
# What A1111 does and mlxdiff does not, with the values that ask for nothing.
_UNUSED = {
    "outpath_samples": (),
    "outpath_grids": (),
    "styles": ("", "[]", "none"),
    "restore_faces": ("false",),
    "tiling": ("false",),
    "do_not_save_samples": ("false",),
    "do_not_save_grid": ("true", "false"),  # there is none
    "prompt_for_display": None,
}
AS_TEXT = ' If the line is a prompt, write {"prompt": "..."}.'
NAMES = (*SETTINGS, OUTPUT, *_OTHERS, *_IMAGES, *_RESIZE, *_UNUSED)


def has_options(line: str) -> bool:
    """Whether a line is one with options: `--` and a letter at the beginning of a word."""
    return _OPTION.search(line) is not None


def read_line(line: str, place: str) -> dict[str, Any]:
    """The settings of a line with options; raises RequestError for one that is unknown, or has no value."""
    first = _OPTION.search(line)
    assert first is not None
    before = line[: first.start()].strip()
    pairs = list(_pairs(line, first))
    if before:
        if any(_plain(name) == "prompt" for name, _ in pairs):
            raise RequestError("there are two prompts, in front of the options and in --prompt.", "Leave one out.")
        pairs.insert(0, ("prompt", unquoted(before)))
    return read_pairs(pairs, place, "--", AS_TEXT)


def read_pairs(
    pairs: Iterable[tuple[str, str]], place: str, dashes: str = "", remedy: str = "", about: str = ""
) -> dict[str, Any]:
    """The settings of names with their values as text; raises RequestError, which begins with `about` and the name."""
    reader, at = _Reader(place, dashes, remedy), ""
    try:
        for name, text in pairs:
            at = f"{about}{name}: " if about else ""
            reader.add(name, text)
    except RequestError as error:
        raise RequestError(f"{at}{error.problem}", error.remedy) from None
    return reader.settings()


class _Reader:
    """Collects settings by the names that A1111 or mlxdiff have for them."""

    def __init__(self, place: str, dashes: str, remedy: str) -> None:
        self._place, self._dashes, self._remedy = place, dashes, remedy
        self._found: dict[str, Any] = {}
        self._said: set[str] = set()
        self._images: list[int] = []
        self._sides: dict[str, int] = {}

    def add(self, name: str, text: str) -> None:
        plain = _plain(name)
        item = find(plain)
        shown_name = f"{self._dashes}{name[:60]}"
        if plain in self._said and not (item is not None and item.kind.many):
            raise RequestError(f"{shown_name} is there twice.", "Leave one out.")
        self._said.add(plain)
        if plain == OUTPUT:
            self._found[OUTPUT] = text
        elif plain in _IMAGES:
            self._images.append(SETTINGS["n_images"].kind.parse(name, text))
        elif plain in _RESIZE:
            self._sides[plain] = _whole(name, text)
        elif plain in _UNUSED:
            nothing = _UNUSED[plain]
            if nothing is not None and text.strip().lower() not in nothing:
                warnings.warn(MlxdiffWarning(f"{self._place}: {shown_name} {shown(text)} is not used."), stacklevel=2)
        elif item is None:
            raise RequestError(f"there is no option {shown_name}.", f"{_meant(plain, self._dashes)}{self._remedy}")
        elif (value := _value(item, plain, text)) is not None:
            if item.name in self._found and not item.kind.many:
                raise RequestError(f"{shown_name} says {item.name} again.", "Leave one out.")
            self._found[item.name] = (*self._found.get(item.name, ()), *value) if item.kind.many else value

    def settings(self) -> dict[str, Any]:
        found = dict(self._found)
        if self._images:
            if "n_images" in found:
                raise RequestError("n_images is there beside batch_size or n_iter.", "Leave one out.")
            found["n_images"] = SETTINGS["n_images"].kind.check("batch_size * n_iter", prod(self._images))
        if self._sides and all(side > 0 for side in self._sides.values()):
            if len(self._sides) == 1:
                raise RequestError(f"{next(iter(self._sides))} stands alone.", f"Give both: {' and '.join(_RESIZE)}.")
            found["seed_resize"] = f"{self._sides[_RESIZE[0]]}x{self._sides[_RESIZE[1]]}"
        return found


def unquoted(text: str) -> str:
    """A value without the quotation marks around it, and the backslashes that these need."""
    whole = _QUOTED.fullmatch(text)
    return text if whole is None else _unquoted(whole)


def find(name: str) -> Setting | None:
    """The setting that a name means: its own, an option's, A1111's."""
    plain = _plain(name)
    own = setting_called(_OTHERS.get(plain, plain), SETTINGS.values())
    return own or next((item for item in SETTINGS.values() if item.a1111 and _plain(item.a1111) == plain), None)


def is_known(name: str) -> bool:
    plain = _plain(name)
    return find(plain) is not None or plain in NAMES


def _plain(name: str) -> str:
    """One spelling: CFG scale, cfg-scale and cfg_scale are the same."""
    return re.sub(r"[\s-]+", "_", name.strip()).lower()


def _pairs(line: str, option: re.Match[str] | None) -> Iterator[tuple[str, str]]:
    while option is not None:
        name, start = option[1], option.end()
        gap = re.compile(r"\s*=?\s*").match(line, start)
        start = start if gap is None else gap.end()
        text, stop = _text_at(line, start, name)
        yield name, text
        option = _OPTION.search(line, stop)


def _text_at(line: str, start: int, name: str) -> tuple[str, int]:
    """The value that begins at `start`, and where it ends."""
    quoted = _QUOTED.match(line, start)
    begins = line[start : start + 1]
    if quoted is None and begins == '"':
        raise RequestError(f"the quotation mark behind --{name} is not closed.", "Put one behind the value.")
    at = start if quoted is None else quoted.end()
    following = _OPTION.search(line, at)
    stop = len(line) if following is None else following.start()
    rest = line[at:stop].strip()
    if quoted is None:
        text = rest
    elif rest and _plain(name) not in _TEXTS:
        raise RequestError(f"behind --{name} stands {shown(rest)} after its value.", "Put the whole value in quotes.")
    else:
        text = f"{_unquoted(quoted)} {rest}".strip()
    if not text and quoted is None:
        raise RequestError(f"--{name} has no value.", f"Put one behind it.{AS_TEXT}")
    return text, stop


def _unquoted(found: re.Match[str]) -> str:
    return found[2] if found[1] is None else re.sub(r"\\([\"\\])", r"\1", found[1])


def _meant(name: str, dashes: str) -> str:
    meant = nearest(name, NAMES).partition(" Choose one of")[0]
    if meant.startswith("Choose"):
        return "docs/settings.md has the names."
    return meant.replace("Did you mean ", f"Did you mean {dashes}")


def _value(item: Setting, name: str, text: str) -> Any:
    """The value of a setting; None where A1111's value asks for nothing."""
    stripped = text.strip()
    if name in ("seed", "subseed", "variation_seed") and stripped == "-1":
        return None
    if name == "scheduler" and stripped.lower() == "automatic":
        return None
    if name == "sampler_index" and stripped.isdecimal():
        raise RequestError(
            f"sampler_index is {stripped}, a place in A1111's list, which is another in every version.",
            'Name the sampler: --sampler_name "Euler a".',
        )
    if isinstance(item.kind, Choice):
        Request.from_dict({item.name: stripped})  # checks it: some names say two settings at once ("DPM++ 2M Karras")
        return stripped
    return item.kind.parse(name, text)


def _whole(name: str, text: str) -> int:
    if not re.fullmatch(r"\s*-?[0-9]{1,6}\s*", text):
        raise RequestError(f"{name} is {shown(text)}.", "It is a whole number.")
    return int(text)
