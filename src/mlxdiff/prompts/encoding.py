"""Prompts to what the network is told during a run, kept for requests that say the same.

Prompts that say the same in every syntax are encoded together, as diffusers does. All others are encoded one by one, by
the rules of the program whose syntax they are in (text/encode.py).
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby

import mlx.core as mx

from .. import hub
from ..catalogue import find_sampler
from ..checkpoint.inversion import Inversion, read_inversion, vectors_for
from ..conditioning import Conditioning, Strand, concatenate, constant
from ..diffusion.guidance import NEGATIVE, POSITIVE, positives
from ..errors import MlxdiffWarning
from ..families.base import PromptEncoder, Vectors
from ..loras import adapters_of
from ..networks import Networks
from ..recent import Recent
from ..request import Resolved
from ..text.chunking.chunk import Names
from ..text.emphasis import repeated
from ..text.encode import Encoded, Encoder, encode_a1111, encode_comfyui, encode_compel, encode_plain
from ..text.syntax.prompt import Part, Prompt
from ..text.tokenizer import Tokenizer
from . import parsing

KEPT = 8  # encoded requests


@dataclass(frozen=True, eq=False)
class EncodedRequest:
    """What a request tells the network.

    branches  of guidance, by name: strands that together cover all images
    weights   of the branches positives(n), where prompts have several parts (AND): numbers, or (B, 1, 1, 1); an image
              of fewer parts repeats its first one with weight 0
    """

    branches: Mapping[str, tuple[Strand, ...]]
    weights: tuple[float | mx.array, ...] = ()

    def arrays(self) -> list[mx.array]:
        """All arrays, to be evaluated."""
        held = [each for strands in self.branches.values() for strand in strands for _, each in strand.entries]
        return [array for conditioning in held for array in conditioning.arrays()]


@dataclass(frozen=True)
class ParsedTexts:
    """The texts of a request by branch, and what each says.

    texts    as families.base.Branches
    prompts  of the positive branch, by text; negative: of the other, None where there is no such text
    """

    reading: parsing.Reading
    texts: Mapping[str, tuple[str, ...] | None]
    prompts: Mapping[str, Prompt]
    negative: Prompt | None = None

    @property
    def all_prompts(self) -> list[Prompt]:
        return [*self.prompts.values(), *([] if self.negative is None else [self.negative])]

    @property
    def is_scheduled(self) -> bool:
        """Whether a prompt changes during the run."""
        return any(len(part.entries) > 1 for prompt in self.all_prompts for part in prompt.parts)


class EncodedPrompts:
    """What the text encoders make of requests; the last KEPT of them are kept.

    Whole batches are kept, not prompts: a prompt's last bits depend on its neighbours, and a picture is the same
    however often it is rendered. Runs that differ only in seed, sampler, scale or (unless a prompt has a schedule)
    steps are conditioned alike.
    """

    def __init__(self, networks: Networks) -> None:
        self._networks = networks
        self._kept: Recent[EncodedRequest] = Recent(KEPT)

    def of(self, requests: Sequence[Resolved]) -> list[EncodedRequest]:
        """What each request tells, evaluated. KEPT are kept at least, and all of these."""
        self._kept.room = max(KEPT, len(requests))
        found: list[EncodedRequest] = []
        for before, request in zip([None, *requests], requests, strict=False):
            if before is not None and before.lora != request.lora:
                mx.eval([each.arrays() for each in found])  # with the weights that are there, which then may go
            found.append(self._of(request))
        mx.eval([each.arrays() for each in found])
        self._networks.prompts_are_encoded()
        return found

    def alone(self, request: Resolved) -> Conditioning:
        """What the prompts of a request tell at the first call, without a negative prompt; unevaluated."""
        parsed = parsed_texts(request, guided=False)
        found = self._encode(request, parsed)
        self._warn(request, parsed)
        return concatenate([strand.at(0) for strand in found.branches[POSITIVE]])

    def _of(self, request: Resolved) -> EncodedRequest:
        embedded = self._networks.checkpoint.backbone.uses_guidance_embedding
        guided = is_guided(request, embedded=embedded)
        _warn_of_idle(request, guided)
        # Samplers in CFG++ form need the negative branch at any guidance scale.
        parsed = parsed_texts(request, guided=guided or find_sampler(request.sampler).unconditional)
        adapters = adapters_of(request)
        key = (
            *parsed.texts.items(),
            *(request.height, request.width, request.prompt_syntax, request.clip_skip),
            *(request.embedding, request.hashes if request.embedding else None),
            self._networks.adapting.key("encoder", adapters),
            self._networks.adapting.bringing(adapters),
            parsed.reading.run if parsed.is_scheduled else None,
        )
        found = self._kept.get(key, lambda: self._encode(request, parsed))
        self._warn(request, parsed)
        return found

    def _encode(self, request: Resolved, parsed: ParsedTexts) -> EncodedRequest:
        encoder: PromptEncoder = self._networks.adapted("encoder", adapters_of(request)).network
        inversions = self._inversions(request)
        names = names_of(inversions, self._networks.tokenizers)
        if _is_simple(parsed, self._networks.tokenizers, names):
            size = {"height": request.height, "width": request.width}
            found = encoder(parsed.texts, **size, clip_skip=request.clip_skip)
            return EncodedRequest({name: constant(conditioning) for name, conditioning in found.items()})
        vectors = {name: vectors_for(inversion, encoder.widths) for name, inversion in inversions.items()}
        return _Assembler(request, parsed, encoder, vectors).encoded()

    def _bundled(self, request: Resolved) -> tuple[Inversion, ...]:
        """Textual inversions that LoRA files bring along."""
        return self._networks.adapting.inversions(adapters_of(request))

    def _inversions(self, request: Resolved) -> dict[str, Inversion]:
        return {inversion.name: inversion for inversion in self._bundled(request)} | inversions_of(request)

    def _warn(self, request: Resolved, parsed: ParsedTexts) -> None:
        """Says what of the prompts does nothing, each time they are used."""
        things = [thing for prompt in parsed.all_prompts for thing in parsing.unused(prompt)]
        inversions, tokenizers = self._inversions(request), self._networks.tokenizers
        names = names_of(inversions, tokenizers)[0]
        if parsed.reading.syntax == "comfyui":
            things += [thing for prompt in parsed.all_prompts for thing in parsing.unknown_embeddings(prompt, names)]
        parsing.warn_of(things)
        given = {id(each) for each in inversions.values()} - {id(each) for each in self._bundled(request)}
        if given:
            said = parsing.named_in(parsed.all_prompts, parsed.reading.syntax, tokenizers[0], names)
            used = {id(inversion) for name, inversion in inversions.items() if name in said}
            idle = {id(each): each for each in inversions.values() if id(each) in given - used}
            for inversion in idle.values():
                mark = "embedding:" if parsed.reading.syntax == "comfyui" else ""
                called = next(name for name, each in inversions.items() if each is inversion)
                text = f"No prompt names the embedding {called}. Write {mark}{called} where it is to be."
                warnings.warn(MlxdiffWarning(text), stacklevel=2)


def parsed_texts(request: Resolved, *, guided: bool) -> ParsedTexts:
    """What a request's prompts say. Several parts, or one with a weight, are guided whatever the scale is."""
    reading = parsing.reading_of(request)
    prompts = {text: reading.parse(text) for text in dict.fromkeys(request.prompts)}
    if not guided and not is_composed(prompts.values()):
        return ParsedTexts(reading, {POSITIVE: request.prompts}, prompts)
    text = request.negative_prompt
    texts = {NEGATIVE: None if text is None else (text,), POSITIVE: request.prompts}
    return ParsedTexts(reading, texts, prompts, None if text is None else reading.parse(text, negative=True))


def is_composed(prompts: Iterable[Prompt]) -> bool:
    """Whether any prompt has several parts (AND), or one with a weight."""
    return any(prompt.parts[0].weight != 1 or len(prompt.parts) > 1 for prompt in prompts)


def is_guided(request: Resolved, *, embedded: bool) -> bool:
    """Whether a second branch is computed. Guidance at 1 or below changes nothing and costs half the time.

    `embedded`: the network takes the guidance scale as an input, and needs no second branch. An editing model is
    guided by its picture too, and by neither where that scale is below 1, as in diffusers.
    """
    edits = request.image_guidance_scale is None or request.image_guidance_scale >= 1
    return request.guidance_scale > 1 and edits and not embedded


def branch_count(request: Resolved) -> int:
    """How many branches of guidance are computed for an image, at most."""
    parsed = parsed_texts(request, guided=request.guidance_scale > 1)
    several = max(len(prompt.parts) for prompt in parsed.prompts.values()) + (NEGATIVE in parsed.texts)
    several += request.pag_scale > 0
    return several + (request.image_guidance_scale is not None and NEGATIVE in parsed.texts)


def inversions_of(request: Resolved) -> dict[str, Inversion]:
    """The textual inversions of a request by what prompts call them: `token=`, or else both the file's name and the
    token that the file itself names."""
    found: dict[str, Inversion] = {}
    for embedding in request.embedding or ():
        inversion = read_inversion(hub.find_part(embedding.ref, "embedding"))
        own = (inversion.name, inversion.token)
        names = own if embedding.token is None else (embedding.token,)
        found |= {name: inversion for name in names if name}
    return found


def names_of(inversions: Mapping[str, Inversion], tokenizers: Sequence[Tokenizer]) -> list[Names]:
    """The names of textual inversions as each tokenizer reads them."""
    counts = {name: inversion.count for name, inversion in inversions.items()}
    return [Names(counts, tokenizer) for tokenizer in tokenizers]


def _is_simple(parsed: ParsedTexts, tokenizers: Sequence[Tokenizer], names: Sequence[Names]) -> bool:
    pairs = list(parsed.prompts.items())
    if parsed.negative is not None:
        pairs += [(text, parsed.negative) for text in parsed.texts[NEGATIVE] or ()]
    if parsed.reading.syntax == "plain":  # what is too long is cut, with a warning, and that is all
        return all(len(each.split(text)) == 1 for text, _ in pairs for each in names)
    return all(parsing.is_simple(text, prompt, tokenizers, names) for text, prompt in pairs)


def _warn_of_idle(request: Resolved, guided: bool) -> None:
    idle = "negative prompt" if request.negative_prompt else ""
    if not idle and request.guidance_interval != (0, 1) and request.pag_scale == 0:
        idle = "guidance interval"
    if idle and not guided:
        text = f"The {idle} does nothing at guidance scale {request.guidance_scale:g}."
        warnings.warn(MlxdiffWarning(text), stacklevel=2)


Timeline = tuple[tuple[int, Conditioning], ...]
"""(last call, conditioning of one row) in order: what a part of a prompt says."""


class _Assembler:
    """Encodes the prompts of a request one by one."""

    def __init__(self, request: Resolved, parsed: ParsedTexts, encoder: PromptEncoder, vectors: Vectors) -> None:
        self._request, self._parsed, self._encoder = request, parsed, encoder
        self._encoders = encoder.encoders(request.clip_skip, vectors)

    def encoded(self) -> EncodedRequest:
        by_text = {text: self._timelines(POSITIVE, prompt) for text, prompt in self._parsed.prompts.items()}
        images = [by_text[text] for text in self._request.prompts]
        n_parts = max(len(parts) for parts in by_text.values())
        branches = {}
        if NEGATIVE in self._parsed.texts:
            branches[NEGATIVE] = _strands([self._negative()] * len(images))
        for i, name in enumerate(positives(n_parts)):
            branches[name] = _strands([parts[i] if i < len(parts) else parts[0] for parts in images])
        return EncodedRequest(branches, self._weights(n_parts))

    def _negative(self) -> Timeline:
        if self._parsed.negative is not None:
            return self._timelines(NEGATIVE, self._parsed.negative)[0]
        size = {"height": self._request.height, "width": self._request.width}
        return ((0, self._encoder({NEGATIVE: None}, **size, clip_skip=self._request.clip_skip)[NEGATIVE]),)

    def _timelines(self, branch: str, prompt: Prompt) -> list[Timeline]:
        """One a part; parts are filled to the length of the longest, as A1111 does."""
        parts = [(part, encode(self._parsed.reading.syntax, part, self._encoders)) for part in prompt.parts]
        length = max(each.context.shape[0] for _, found in parts for each in found)
        return [self._timeline(branch, part, found, length) for part, found in parts]

    def _timeline(self, branch: str, part: Part, found: Sequence[Encoded], length: int) -> Timeline:
        by_text: dict[str, Conditioning] = {}  # an alternation says the same thing again and again
        for entry, each in zip(part.entries, found, strict=True):
            if entry.text not in by_text:
                context = repeated(each.context, length)[None]
                size = self._request.height, self._request.width
                by_text[entry.text] = self._encoder.conditioning(branch, context, each.pooled[None], *size)
        return tuple((entry.last_call, by_text[entry.text]) for entry in part.entries)

    def _weights(self, n_parts: int) -> tuple[float | mx.array, ...]:
        if not is_composed(self._parsed.prompts.values()):
            return ()
        images = [self._parsed.prompts[text].parts for text in self._request.prompts]
        columns = [[parts[i].weight if i < len(parts) else 0.0 for parts in images] for i in range(n_parts)]
        return tuple(
            column[0] if len(set(column)) == 1 else mx.array(column).reshape(-1, 1, 1, 1) for column in columns
        )


def encode(syntax: str, part: Part, encoders: Sequence[Encoder]) -> list[Encoded]:
    """One encoding for each entry of a part, by the rules of the program whose syntax it is in."""
    if syntax == "a1111":
        return encode_a1111(part, encoders)
    if syntax == "plain":
        return [_encode_plain(part, encoders)]
    one = encode_comfyui if syntax == "comfyui" else encode_compel
    return [one(entry, encoders) for entry in part.entries]


def _encode_plain(part: Part, encoders: Sequence[Encoder]) -> Encoded:
    encoded, chunked = encode_plain(part.entries[0], encoders)
    if chunked.lost:
        warnings.warn(MlxdiffWarning(encoders[0].tokenizer.loss(chunked.lost)), stacklevel=2)
    return encoded


def _strands(timelines: Sequence[Timeline]) -> tuple[Strand, ...]:
    """Neighbouring images whose prompts change at the same calls and are of one length, together."""

    def kind(image: int) -> tuple:
        return tuple((last, *(array.shape for array in held.arrays())) for last, held in timelines[image])

    return tuple(
        _strand(timelines, range(images[0], images[-1] + 1))
        for images in (list(found) for _, found in groupby(range(len(timelines)), kind))
    )


def _strand(timelines: Sequence[Timeline], images: range) -> Strand:
    joined: dict[tuple[int, ...], Conditioning] = {}
    entries = []
    for place, (last, _) in enumerate(timelines[images.start]):
        rows = [timelines[image][place][1] for image in images]
        key = tuple(map(id, rows))
        if key not in joined:
            joined[key] = concatenate(rows)
        entries.append((last, joined[key]))
    return Strand(images, tuple(entries))
