"""The LoRAs of a request: named in its settings or by tags in its prompts, found on this disk, at their scales.

A1111's tags (`<lora:NAME:TE:UNET>`) become settings when a request is resolved, and are then no part of the prompt. So
a picture's record says what was applied in one place, and nothing is applied twice.
"""

from __future__ import annotations

import secrets
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache, lru_cache
from pathlib import Path
from typing import Any

from . import few_steps, hub
from .adapters.folder import weights_in
from .checkpoint.header import read_header
from .errors import MlxdiffWarning, ModelNotFoundError, RequestError
from .hashing import content_hash
from .request import SEEDS, Lora, Request, Resolved, presets
from .text.syntax.a1111 import split_networks
from .text.syntax.prompt import Network

MOST = 100  # of one picture: each is looked up, and read whole
_ARGUMENTS = ("te", "unet", "dyn")  # of A1111's tags, behind the name
KINDS = ("lora", "lyco")  # of tags; the second is an older name for the same
_TITLES = ("ss_output_name", "modelspec.title")  # names in a file's metadata


@dataclass(frozen=True)
class Weighted:
    """A file at its scales. `digest` is its content's; `rank` limits how many of its directions are used; `blocks` are
    further strengths by block of the UNet."""

    path: Path
    digest: str
    scale: float
    text: float
    rank: int | None = None
    blocks: tuple[tuple[str, float], ...] = ()

    def strength(self, part: str) -> float:
        """What it is worth in the `backbone` or the `encoder`."""
        return self.text if part == "encoder" else self.scale


Adapters = tuple[Weighted, ...]


def file_of(lora: Lora) -> Path:
    """Where a LoRA is, whatever it is called. Raises ModelNotFoundError."""
    return hub.find_part(lora.ref, "lora").resolve()


def adapters_of(request: Resolved) -> Adapters:
    """The LoRAs that a resolved request asks for. Raises ModelNotFoundError where one has gone."""
    found = []
    for lora in request.lora or ():
        path = hub.find_part(lora.ref, "lora")
        digest, blocks = content_hash(path), lora.blocks or ()
        found.append(Weighted(path, digest, lora.scale, lora.text_scale, lora.rank, blocks))
    return tuple(found)


def alike(request: Request) -> Iterator[Request]:
    """The request, cut where its prompts' tags name other LoRAs: what is rendered together has the same weights.

    One whose prompts agree comes back as it is. A seed is drawn where there is none and they do not.
    """
    texts = request.prompts
    if len(set(texts)) == 1:
        yield request
        return
    split = _splitting(request)
    tags = [split(text)[1] for text in texts]
    if len(set(tags)) <= 1:
        yield request
        return
    if request.seed is None:
        request = request.replaced(seed=secrets.randbelow(SEEDS))
    first = 0
    for i in range(1, len(texts) + 1):
        if i == len(texts) or tags[i] != tags[first]:
            yield request.replaced(prompt=texts[first:i], seed=request.seeds[first:i], n_images=1)
            first = i


def with_tags(request: Request) -> Request:
    """The request with the LoRAs of its prompts' tags as settings, and without those tags.

    One that is not found is named in an MlxdiffWarning and left out, as A1111 does. Raises RequestError for a tag with
    a scale that is no number, for one inside another, for more than MOST LoRAs, and for prompts that name different
    ones.
    """
    texts = (request.prompt,) if isinstance(request.prompt, str) else request.prompt
    split = _splitting(request)
    read = [split(text) for text in texts]
    count = len(request.lora or ()) + max((len(tags) for _, tags in read), default=0)
    if count > MOST:
        raise RequestError(f"A picture is asked for with {count} LoRAs.", f"Name at most {MOST}.")
    if not any(tags for _, tags in read):
        return request
    if len({tags for _, tags in read}) > 1:
        raise RequestError(
            "The prompts of one call name different LoRAs, and the network can hold one set of them.",
            "Call once for each prompt.",
        )
    prompts = tuple(rest for rest, _ in read)
    inner = next((tags[0] for tags in (split(rest)[1] for rest in dict.fromkeys(prompts)) if tags), None)
    if inner is not None:  # would be applied by whoever reads the record, and was not here
        raise RequestError(f"{shown(inner)} stands around another tag in the prompt.", "Write one behind the other.")
    found = tuple(lora for tag in read[0][1] if (lora := _found(tag)) is not None)
    prompt = prompts[0] if isinstance(request.prompt, str) else prompts
    return request.replaced(prompt=prompt, lora=(*(request.lora or ()), *found) or None)


def with_few_steps(request: Request) -> Request:
    """The request with what a few-step LoRA needs where nothing is asked for, which is said in an MlxdiffWarning."""
    for lora in request.lora or ():
        if lora.scale == 0:
            continue
        found = few_steps.row_of(_names(lora))
        if found is None:
            continue
        filled, settings = few_steps.filled(request, *found)
        if settings:
            said = ", ".join(f"{name.replace('_', ' ')} {value}" for name, value in settings.items())
            text = f"{lora.name} is a few-step LoRA ({found[0].called}): {said}, as nothing else is asked for."
            warnings.warn(MlxdiffWarning(text), stacklevel=2)
        return filled
    return request


def _names(lora: Lora) -> list[str]:
    """What a LoRA is called: as it was asked for, by its file and folder, and in its metadata."""
    path = hub.find_part(lora.ref, "lora")
    metadata = _metadata(path, content_hash(path))
    return [lora.ref, path.stem, path.parent.name, *(metadata[key] for key in _TITLES if key in metadata)]


@lru_cache(maxsize=256)
def _metadata(path: Path, _digest: str) -> Mapping[str, str]:
    return read_header(weights_in(path)).metadata


def _splitting(request: Request) -> Callable[[str], tuple[str, tuple[Network, ...]]]:
    """A prompt to what is left of it without its tags, and those: only A1111's syntax has any."""
    if presets.applied(request).prompt_syntax not in (None, "a1111"):
        return lambda text: (text, ())

    @cache  # images of one prompt
    def split(text: str) -> tuple[str, tuple[Network, ...]]:
        rest, tags = split_networks(text, KINDS)
        return (rest.strip(), tags) if tags else (text, ())

    return split


def _found(tag: Network) -> dict[str, Any] | None:
    """A1111's arguments: NAME, the text encoder's scale, the UNet's (the same if it is not said), and a rank; the last
    three may be given by name. Others, which only its extensions read, are named in an MlxdiffWarning."""
    values: dict[str, Any] = dict(zip(_ARGUMENTS, tag.positional[1:], strict=False)) | dict(tag.named)
    name = tag.positional[0].strip() if tag.positional else ""
    text = _number(tag, values.get("te", "1"))
    scale = _number(tag, values["unet"]) if "unet" in values else text
    rank = _number(tag, values["dyn"]) if "dyn" in values else None
    try:
        hub.find_part(name, "lora")
    except ModelNotFoundError as error:
        said = f"There is no LoRA for {shown(tag)}: it is left out. Expect another picture. {error.remedy}"
        warnings.warn(MlxdiffWarning(said), stacklevel=2)
        return None
    named = [f"{key}={value}" for key, value in tag.named if key not in _ARGUMENTS]
    others = [*tag.positional[1 + len(_ARGUMENTS) :], *named]
    if others:
        said = f"mlxdiff leaves out {_cut(':'.join(others))} of {shown(tag)}, which only extensions of A1111 read."
        remedy = f"Where one did, expect another picture: blocks are set with --lora {name},blocks=IN04:0.5."
        warnings.warn(MlxdiffWarning(f"{said} {remedy}"), stacklevel=2)
    if rank is not None and rank.is_integer():
        rank = int(rank)
    return {"ref": name, "scale": scale, "text": None if text == scale else text, "rank": rank}  # for Request to check


def shown(tag: Network) -> str:
    """The tag as it is written."""
    return _cut(f"<{':'.join((tag.kind, *tag.positional, *(f'{key}={value}' for key, value in tag.named)))}>")


def _cut(text: str) -> str:
    return text if len(text) <= 80 else f"{text[:77]}..."


def _number(tag: Network, text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise RequestError(
            f"{shown(tag)} in the prompt has {text[:40]!r} where a number belongs.", "Write it as <lora:NAME:0.8>."
        ) from None
