"""Where a picture goes: `--output` as a file, a folder or a template, and what comes from a prompt made safe.

    apple.png                           that file; of several pictures apple-SEED.png
    out/                                out/00000-a-red-apple-7.png
    out/{model}/{seed}-{prompt:.20}     as it says; .png is added where there is no format

Knows nothing of what exists on disk, except whether `--output` is a folder: overwriting is the business of files.py.
"""

from __future__ import annotations

import os
import re
import unicodedata
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache
from pathlib import Path, PurePath, PureWindowsPath
from string import Formatter
from unicodedata import normalize

from ..errors import RequestError
from ..images import picture_format
from ..request import Request
from ..request.declarations import MAX_DIGITS

IN_FOLDER = "{index:05d}-{prompt}-{seed}.png"
ALONE = "{prompt}-{seed}.png"
MAX_PROMPT = 80  # bytes of UTF-8
MAX_NAME = 255  # bytes: ext4, APFS; NTFS counts UTF-16 units, which are never more

_WHOLE = ("index", "seed", "steps", "width", "height")
_DECIMAL = ("guidance_scale",)
_TEXT = ("prompt", "model", "sampler")
FIELDS = (*_WHOLE, *_DECIMAL, *_TEXT)
NAME = "name"  # of the picture that is rendered again, where there is one

# Of Python's format specs: no width past 99, no separator as the fill, and neither "c", which gives any character, nor
# "n", which depends on the locale.
_NUMBER_SPEC = re.compile(r"(?:[^{}/\\\x00-\x1f]?[<>=^])?[ +-]?#?0?\d{0,2}[,_]?(?:\.\d{1,2})?[bdeEfFgGoxX%]?")
_TEXT_SPEC = re.compile(r"(?:[^{}/\\\x00-\x1f]?[<>^])?\d{0,2}(?:\.\d{1,2})?s?")

_RESERVED = re.compile(r"(?:con|prn|aux|nul|(?:com|lpt)[0-9¹²³])(?=$|\.)", re.IGNORECASE)
_JOINERS = "\u200c\u200d"  # letters of Persian and families of emoji fall apart without them


@dataclass(frozen=True)
class Piece:
    """Some text, and the field that follows it, if any."""

    text: str
    field: str | None = None
    spec: str = ""


@dataclass(frozen=True)
class Template:
    """A relative path with fields in it, read and found sound."""

    pieces: tuple[Piece, ...]

    @cached_property
    def fields(self) -> frozenset[str]:
        return frozenset(piece.field for piece in self.pieces if piece.field is not None)


@dataclass(frozen=True)
class OutputPattern:
    """`folder` as the user named it, and the names below it; a prompt file's own outputs lie below it too."""

    folder: Path
    template: Template


def parse_output(output: str | Path | None, *, several: bool = False, fields: Sequence[str] = FIELDS) -> OutputPattern:
    """What `--output` means; raises RequestError. `several`: there may be more than one picture.

    `fields` are those that a template may have. Give the text as it was typed: a Path has lost the separator at its
    end, which says that it is a folder.
    """
    if output is None:
        return OutputPattern(Path(), parse_template(IN_FOLDER if several else ALONE))
    text = str(output)
    if not text or "\0" in text:
        raise RequestError(f"The output is {text!r}.", "Name a file, a folder or a template.")
    if "{" in text or "}" in text:
        template = parse_template(text, fields)
        if template.fields:
            return _split(template)
        text = template.pieces[0].text
    last = re.split(_separators(), text)[-1]
    if last in ("", ".", "..") or os.path.isdir(text) or (several and not PurePath(text).suffix):
        return OutputPattern(Path(text), parse_template(IN_FOLDER))
    path = Path(text)
    return OutputPattern(path.parent, _file(path.name, several=several))


def below(pattern: OutputPattern, output: str, *, several: bool = False) -> OutputPattern:
    """The pattern of an `output` in a prompt file: a file or template inside the pattern's folder.

    Raises RequestError for what leaves the folder, on any system. `several`: its job makes more than one picture.
    """
    parts = _parts_inside(output)
    text = "/".join(parts)
    if re.split(r"[/\\]", output)[-1] in ("", ".", ".."):
        return OutputPattern(pattern.folder, parse_template(f"{text}/{IN_FOLDER}" if text else IN_FOLDER))
    if "{" in text or "}" in text:
        template = parse_template(text)
        if template.fields:
            return OutputPattern(pattern.folder, _with_format(template))
        text = template.pieces[0].text
    return OutputPattern(pattern.folder, _file(text, several=several))


def picture_path(pattern: OutputPattern, request: Request, index: int) -> Path:
    """The path of picture `index`, which the resolved `request` renders alone; raises RequestError for a long name."""
    name = "".join(
        piece.text if piece.field is None else piece.text + _formatted(_value(piece.field, request, index), piece)
        for piece in pattern.template.pieces
    )
    parts = PurePath(name).parts if "/" in name else (name,)
    if pattern.template.fields:
        parts = tuple(_not_reserved(part) for part in parts)
    for part in parts:
        if len(os.fsencode(part)) > MAX_NAME:
            raise RequestError(
                f"The name {part[:40]}... is {len(os.fsencode(part))} bytes long, and at most {MAX_NAME} are possible.",
                "Shorten the output's template, for example with {prompt:.20}.",
            )
    place = request.batch_places[0]
    fields = pattern.template.fields
    if place is not None and "seed" in fields and "index" not in fields:  # the seed is that of others, too
        name = PurePath(parts[-1])
        parts = (*parts[:-1], f"{name.stem}-{place.index}{name.suffix}")
    return pattern.folder.joinpath(*parts)


def next_index(pattern: OutputPattern) -> int:
    """One more than the largest {index} of the pictures in the pattern's folder; 0 where names have none."""
    pieces = pattern.template.pieces
    texts = [re.escape(piece.text) for piece in pieces]
    fields = {None: "", "index": "(?P<index>[0-9]+)"}
    if [piece.field for piece in pieces].count("index") != 1 or any("/" in piece.text for piece in pieces):
        return 0
    form = re.compile("".join(text + fields.get(piece.field, ".*") for text, piece in zip(texts, pieces, strict=True)))
    try:
        with os.scandir(pattern.folder) as scan:
            found = [int(match["index"][:MAX_DIGITS]) for entry in scan if (match := form.fullmatch(entry.name))]
    except OSError:  # there is none yet, or the first picture says what is wrong
        return 0
    return max(found, default=-1) + 1


def check_clashes(paths: Iterable[tuple[Path, str]]) -> None:
    """Raises RequestError where two of the (path, job) pairs meet, or one's file would be the other's folder.

    Names that differ in case, or in how accents are written, are the same file on macOS and Windows, so also here.
    """
    taken: dict[str, str] = {}
    folders: dict[str, str] = {}
    parents = lru_cache(maxsize=1000)(lambda folder: [folder, *map(str, PurePath(folder).parents)])
    for path, job in paths:
        key = path_key(path)
        above = parents(os.path.dirname(key) or os.curdir)
        other = taken.get(key, folders.get(key))
        if other is None:
            other = next((taken[folder] for folder in above if folder in taken), None)
        if other is not None:
            who = f"Two pictures of {job}" if job == other else f"{other} and {job}"
            raise RequestError(
                f"{who} would both be written to {path}.", "Put {index} or {seed} into the output, or rename one."
            )
        taken[key] = job
        for folder in above:
            folders.setdefault(folder, job)


def path_key(path: Path) -> str:
    """Equal for paths that are one file on a file system that ignores case and how accents are written."""
    text = os.path.normpath(path)
    return text.lower() if text.isascii() else normalize("NFC", normalize("NFC", text).casefold())


def safe(text: str, limit: int = MAX_PROMPT) -> str:
    """A part of a file name that a person recognises the text in: letters, marks, digits and emoji of any script.

    Everything else becomes "-". At most `limit` bytes (8 or more), never empty, never a device of Windows, in NFC.
    """
    kept = normalize("NFC", text).translate(_KEPT)
    kept = re.sub(r"-*\.[-.]*|-{2,}", lambda run: "." if run[0] == "." else "-", kept)
    name = _cut(normalize("NFC", _trimmed(kept)), limit)
    return _cut(_not_reserved(name), limit) if name else "picture"


@lru_cache(maxsize=256)
def parse_template(text: str, fields: Sequence[str] = FIELDS) -> Template:
    """Reads a template; raises RequestError for what is not one of the fields with a plain format spec."""
    try:
        found = list(Formatter().parse(text))
    except ValueError as error:
        raise RequestError(
            f"The output {text!r} is no template ({error}).", f"{_known(fields)} Write a brace itself as {{{{ or }}}}."
        ) from None
    pieces, text = [], ""
    for literal, field, spec, conversion in found:
        text += literal  # which is cut where a brace was doubled
        if field is None:
            continue
        if field not in fields or conversion is not None:
            shown = field if conversion is None else f"{field}!{conversion}"
            raise RequestError(f"The output has a field {{{shown}}}, which there is not.", _known(fields))
        is_text = field in (*_TEXT, NAME)
        pattern = _TEXT_SPEC if is_text else _NUMBER_SPEC
        sample = "a" if is_text else 1.5 if field in _DECIMAL else 1
        try:
            if pattern.fullmatch(spec or "") is None:
                raise ValueError
            format(sample, spec or "")
        except ValueError:
            raise RequestError(
                f"The format of {{{field}:{spec}}} in the output cannot be used.",
                "Write for example {index:05d}, {guidance_scale:.1f} or {prompt:.20}; widths go up to 99.",
            ) from None
        pieces.append(Piece(text, field, spec or ""))
        text = ""
    return Template((*pieces, Piece(text)) if text or not pieces else tuple(pieces))


@lru_cache(maxsize=256)
def asks_for_index(template: Template) -> bool:
    """Whether a name depends on the place in the list because the template says so.

    In the names that a folder's pictures get unasked the index only keeps them in order.
    """
    head = folders_of(template)
    return "index" in {piece.field for piece in (template.pieces if head is None else head)}


def folders_of(template: Template) -> tuple[Piece, ...] | None:
    """What stands before the name that pictures in a folder get unasked; None where the name was asked for."""
    unasked = parse_template(IN_FOLDER).pieces
    head, tail = template.pieces[: -len(unasked)], template.pieces[-len(unasked) :]
    above, _, start = tail[0].text.rpartition("/")
    if (replace(tail[0], text=start), *tail[1:]) != unasked:
        return None
    return (*head, Piece(f"{above}/")) if above or tail[0].text.startswith("/") else head


def _known(fields: Sequence[str]) -> str:
    return f"The fields are {', '.join(f'{{{field}}}' for field in fields)}."


def _separators() -> str:
    return "[" + re.escape(os.sep + (os.altsep or "")) + "]"


def _split(template: Template) -> OutputPattern:
    """A template as the folder that stands before its first field, and the names below it."""
    first, *others = template.pieces
    cut = max(first.text.rfind(mark) for mark in (os.sep, os.altsep or os.sep)) + 1
    pieces = (Piece(first.text[cut:], first.field, first.spec), *others)
    if pieces[-1].field is None and re.search(_separators() + "$", pieces[-1].text):
        return OutputPattern(Path(first.text[:cut]), Template((*pieces, *parse_template(IN_FOLDER).pieces)))
    return OutputPattern(Path(first.text[:cut]), _with_format(Template(pieces)))


def _with_format(template: Template) -> Template:
    """The template, ending in a format that can be written: .png where it says none."""
    *others, last = template.pieces
    if last.field is not None:
        return Template((*template.pieces, Piece(".png")))
    # After a field even a dot at the start begins a suffix: "{seed}.png".
    name = f"*{last.text}" if others else last.text
    if not PurePath(name).suffix:
        return Template((*others, Piece(f"{last.text}.png")))
    picture_format(name)
    return template


def _file(name: str, *, several: bool) -> Template:
    picture_format(name)
    if not several:
        return Template((Piece(name),))
    suffix = PurePath(name).suffix
    return Template((Piece(f"{name.removesuffix(suffix)}-", "seed"), Piece(suffix)))


def _parts_inside(output: str) -> list[str]:
    """The parts of a relative path with `..` resolved; raises RequestError where it leads out."""
    if not output.strip() or re.search(r"[\x00-\x1f\x7f\ud800-\udfff]", output):
        raise RequestError(f"output is {output[:40]!r}.", "It is a path of visible characters.")
    if PureWindowsPath(output).anchor:
        raise RequestError(
            f"output is {output[:80]!r}, an absolute path.", "It is a path inside the folder that --output names."
        )
    parts: list[str] = []
    for part in re.split(r"[/\\]", output):
        if part == ".." and not parts:
            raise RequestError(
                f"output is {output[:80]!r}, which leaves the folder of --output.", "It is a path inside it."
            )
        if part == "..":
            parts.pop()
        elif part not in ("", "."):
            parts.append(part)
    return parts


def _value(field: str, request: Request, index: int) -> str | int | float:
    """What stands in a name for a field."""
    match field:
        case "index":
            return index
        case "seed":
            return request.seeds[0]
        case "prompt":
            return request.prompts[0].lower()
        case "model":
            model = "" if request.model is None else PurePath(request.model).name.removesuffix(".safetensors")
            return model or "model"
    value = getattr(request, field)
    return "none" if value is None else value


def _formatted(value: str | int | float, piece: Piece) -> str:
    if not isinstance(value, str):
        return format(value, piece.spec or ("g" if isinstance(value, float) else ""))
    # Once more afterwards: a precision may leave "con" of "console", or the first half of an emoji.
    return safe(format(safe(value), piece.spec if piece.field in _TEXT else ""))


class _Kept(dict[int, int]):
    """Characters that names keep, as themselves; "-" for all others. Filled as they are met."""

    def __missing__(self, code: int) -> int:
        char = chr(code)
        category = unicodedata.category(char)
        kept = category[0] in "LMN" or category in ("So", "Sk") or char in "._" or char in _JOINERS
        found = self[code] = code if kept else ord("-")
        return found


_KEPT = _Kept()


def _trimmed(text: str) -> str:
    return text.strip("-." + _JOINERS)


def _cut(text: str, limit: int) -> str:
    """At most `limit` bytes of the text, and no letter without the accents that follow it."""
    whole = len(text.encode())
    if whole <= limit:
        return text
    end = len(text.encode()[:limit].decode(errors="ignore"))
    mark = end
    while mark > 0 and (unicodedata.category(text[mark])[0] == "M" or _JOINERS.find(text[mark]) >= 0):
        mark -= 1
    # A text that is one letter under a tower of accents is cut anywhere rather than lost.
    return _trimmed(text[:mark]) or _trimmed(text[:end])


def _not_reserved(name: str) -> str:
    return _RESERVED.sub(r"\g<0>_", name, count=1) if _RESERVED.match(name) else name
