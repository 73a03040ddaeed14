"""The prompts of a request as their syntax reads them, and what of them is not done. Knows no MLX."""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from .. import catalogue
from ..errors import MlxdiffWarning
from ..request import Resolved
from ..text import Tokenizer
from ..text.chunking import a1111, comfyui, compel, plain
from ..text.chunking.chunk import Chunked, Names
from ..text.syntax import PARSERS
from ..text.syntax import a1111 as a1111_syntax
from ..text.syntax.prompt import Entry, Fragment, Network, Prompt, Run

MAX_NAMED = 10  # things that one warning names
_EMBEDDING = re.compile(r"(?<![^ \n])embedding:(\S+)")


@dataclass(frozen=True)
class Reading:
    """How the prompts of one run are read."""

    syntax: str
    run: Run

    def parse(self, text: str, *, negative: bool = False) -> Prompt:
        """Raises RequestError for a prompt that is too long or nested too deeply."""
        if negative and self.syntax == "a1111":
            return a1111_syntax.parse(text, self.run, negative=True)
        return PARSERS[self.syntax](text, self.run)


def reading_of(request: Resolved) -> Reading:
    """How a request's prompts are read: A1111 counts two calls a step for samplers that take two."""
    return reading(request.prompt_syntax, request.steps, request.sampler, request.first_calls)


def reading(syntax: str, steps: int, sampler: str, first_calls: int | None = None) -> Reading:
    """As reading_of, from the settings that decide it."""
    calls = 2 * steps if catalogue.find_sampler(sampler).evaluations == 2 else steps
    return Reading(syntax, Run(calls, first_calls))


def chunk(syntax: str, entry: Entry, tokenizer: Tokenizer, names: Names | None = None) -> Chunked:
    """What a text encoder reads of an entry."""
    if syntax == "a1111":
        return a1111.chunk(entry.pieces, tokenizer, names)
    if syntax == "plain":
        return plain.chunk(entry.text, tokenizer, names)
    fragments = [piece for piece in entry.pieces if isinstance(piece, Fragment)]
    if syntax == "comfyui":
        return comfyui.chunk(fragments, tokenizer, names)
    return compel.chunk(fragments, tokenizer, names)[0]


def is_simple(text: str, prompt: Prompt, tokenizers: Sequence[Tokenizer], names: Sequence[Names]) -> bool:
    """Whether a prompt says the same in every syntax: text of weight 1 that fits into a chunk, whole and unchanged."""
    part, entry = prompt.parts[0], prompt.parts[0].entries[0]
    sections = entry.sections
    is_one = len(prompt.parts) == len(part.entries) == len(sections) == len(sections[0].terms) == 1
    if not is_one or prompt.networks or part.weight != 1 or sections[0].weight != 1:
        return False
    if any(not isinstance(piece, Fragment) or piece.weight != 1 for piece in entry.pieces):
        return False
    said = [piece.text for piece in entry.pieces if isinstance(piece, Fragment)]
    return all(_fits(text, said, *pair) for pair in zip(tokenizers, names, strict=True))


def _fits(text: str, said: Sequence[str], tokenizer: Tokenizer, names: Names) -> bool:
    chunked = plain.chunk(text, tokenizer)
    if chunked.lost or _names_any(said, tokenizer, names):
        return False
    if len(said) <= 1 and "".join(said).strip() == text.strip():
        return True
    ids = [index for fragment in said for index in tokenizer.text_ids(fragment)]
    return ids == tokenizer.text_ids(text)


def _names_any(said: Sequence[str], tokenizer: Tokenizer, names: Names) -> bool:
    for text in said:
        ids = tokenizer.text_ids(text)
        if any(names.at(ids, i) is not None for i in range(len(ids))) or len(names.split(text)) > 1:
            return True
    return False


def unused(prompt: Prompt) -> list[str]:
    """What a prompt asks for and mlxdiff does not do, as it is written."""
    return [*map(_tag, prompt.networks), *prompt.ignored]


def unknown_embeddings(prompt: Prompt, names: Names) -> list[str]:
    """ComfyUI's `embedding:NAME` of files that were not given."""
    entries = [entry for part in prompt.parts for entry in part.entries]
    texts = [piece.text for entry in entries for piece in entry.pieces if isinstance(piece, Fragment)]
    said = [match[1] for text in texts for match in _EMBEDDING.finditer(text)]
    return [f"embedding:{name}" for name in said if names.named(name) is None and names.named(name.strip(",")) is None]


def named_in(prompts: Iterable[Prompt], syntax: str, tokenizer: Tokenizer, names: Names) -> set[str]:
    """The textual inversions that prompts name."""
    entries = {entry.text: entry for prompt in prompts for part in prompt.parts for entry in part.entries}
    chunks = [each for entry in entries.values() for each in chunk(syntax, entry, tokenizer, names).chunks]
    return {place.name for each in chunks for place in each.placements}


def warn_of(things: Sequence[str]) -> None:
    """Says what of the prompts does nothing; nothing where there is none."""
    things = list(dict.fromkeys(things))
    if not things:
        return
    shown = [thing if len(thing) <= 60 else f"{thing[:57]}..." for thing in things[:MAX_NAMED]]
    more = f" and {len(things) - MAX_NAMED} more" if len(things) > MAX_NAMED else ""
    said = f"mlxdiff leaves out what the prompt says with {', '.join(shown)}{more}. Expect another picture."
    warnings.warn(MlxdiffWarning(said), stacklevel=3)


def _tag(network: Network) -> str:
    named = [f"{key}={value}" for key, value in network.named]
    return f"<{':'.join((network.kind, *network.positional, *named))}>"
