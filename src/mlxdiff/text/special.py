"""Which special tokens a tokenizer has, and how it finds them in text.

They are matched before anything else, as whole strings wherever they stand; so with `pad_token: "!"` (SD 2.x) every
exclamation mark in a prompt is the padding token. The rules are those of transformers 5, which reads
`tokenizer_config.json`, the older `special_tokens_map.json` and `added_tokens.json`, and `tokenizer.json`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import regex

from ..errors import CheckpointError, UnsupportedError
from .normalize import normalize

START, END = "<|startoftext|>", "<|endoftext|>"
# The order counts: where two entries say different things of one token, the later one decides.
NAMES = ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token")
MOST_TOKENS = 20_000  # beside the vocabulary: CLIP has 2, an embedding adds up to some 75
EXTRA = ("extra_special_tokens", "additional_special_tokens")
DEFAULTS = {"bos_token": START, "eos_token": END, "unk_token": END, "pad_token": END}


@dataclass(frozen=True)
class Token:
    """A string matched as one token; a `normalized` one also where the text only equals it once normalized."""

    content: str
    normalized: bool


@dataclass(frozen=True)
class SpecialTokens:
    """names: role -> content, for the roles that are set. tokens: everything matched, in the order in which new ids go.

    declared: contents that the files give an id, and so do not need to be in the vocabulary.
    """

    names: Mapping[str, str]
    tokens: tuple[Token, ...]
    declared: frozenset[str]


def read_special_tokens(
    config: Mapping[str, Any],
    special_map: Mapping[str, Any],
    added: Mapping[str, Any],
    listed: Iterable[Mapping[str, Any]],
) -> SpecialTokens:
    """From tokenizer_config.json, special_tokens_map.json, added_tokens.json and the added_tokens of tokenizer.json.

    Raises CheckpointError for an entry that is no token, UnsupportedError for one that only matches whole words.
    """
    settings = dict(config)
    if "added_tokens_decoder" in config:
        entries = list(_mapping(config, "added_tokens_decoder").items())
    else:
        settings |= {key: value for key, value in special_map.items() if value and (key in NAMES or key in EXTRA)}
        entries = [(index, {"content": content}) for content, index in added.items()]
        entries += [(entry.get("id"), entry) for entry in listed]

    _check_count(len(entries))
    roles = {name: _token(value, normalized=False) for name, value in _roles(settings)}
    named = {token.content for token in roles.values()}
    declared: dict[str, tuple[int, Token]] = {}
    for index, entry in entries:
        token = _token(entry, normalized=False)
        if token.content not in named:
            token = _token(entry, normalized=not _is_special(entry))
        declared[token.content] = _whole(index, token.content), token
    roles = {name: declared[token.content][1] if token.content in declared else token for name, token in roles.items()}
    extra = [_token(entry, normalized=isinstance(entry, dict) and not _is_special(entry)) for entry in _extra(settings)]

    order = [token for _, token in sorted(declared.values(), key=lambda item: item[0])]
    known = set(declared)
    order += [token for token in dict.fromkeys(roles.values()) if token.content not in known]
    known |= {token.content for token in order}
    order += [token for token in extra if token.content not in known]
    last = {token.content: token for token in order if token.content}
    _check_count(len(last))
    return SpecialTokens(
        {name: token.content for name, token in roles.items()}, tuple(last.values()), frozenset(declared)
    )


class Splitter:
    """Cuts text at special tokens: the longest of those that start leftmost."""

    def __init__(self, tokens: Iterable[Token], ids: Mapping[str, int]) -> None:
        raw, normal = {}, {}
        for token in tokens:
            if token.normalized:
                normal[normalize(token.content)] = ids[token.content]
            else:
                raw[token.content] = ids[token.content]
        self._raw, self._normal = _finder(raw), _finder(normal)

    def split(self, text: str) -> list[str | int]:
        """Normalized text and the ids of the tokens between it, in order."""
        parts: list[str | int] = []
        for part in _cut(text, *self._raw):
            parts += [part] if isinstance(part, int) else _cut(normalize(part), *self._normal)
        return parts


def _check_count(count: int) -> None:
    if count > MOST_TOKENS:
        raise CheckpointError(
            f"The tokenizer lists {count} special tokens, and up to {MOST_TOKENS} are read.",
            "Remove those that no prompt uses from its added tokens.",
        )


def _roles(settings: Mapping[str, Any]) -> Iterable[tuple[str, Any]]:
    """The roles that are set, and CLIP's own tokens for those it needs."""
    for name in NAMES:
        value = DEFAULTS.get(name) if settings.get(name) is None else settings[name]
        if value is not None:
            yield name, value


def _finder(ids: dict[str, int]) -> tuple[regex.Pattern[str] | None, dict[str, int]]:
    longest_first = sorted((content for content in ids if content), key=len, reverse=True)
    return (regex.compile("|".join(map(regex.escape, longest_first))) if longest_first else None), ids


def _cut(text: str, pattern: regex.Pattern[str] | None, ids: Mapping[str, int]) -> list[str | int]:
    if pattern is None:
        return [text]
    parts: list[str | int] = []
    end = 0
    for match in pattern.finditer(text):
        parts += [text[end : match.start()], ids[match.group()]]
        end = match.end()
    return [*parts, text[end:]]


def _token(entry: Any, *, normalized: bool) -> Token:
    if isinstance(entry, str):
        return Token(entry, normalized)
    if not isinstance(entry, dict) or not isinstance(entry.get("content"), str):
        raise CheckpointError(f"The tokenizer lists {entry!r} as a token.", "A token is a string: get the files anew.")
    if entry.get("single_word"):
        raise UnsupportedError(
            f"The tokenizer's token {entry['content']!r} matches whole words only.", "Use a checkpoint without it."
        )
    return Token(entry["content"], bool(entry.get("normalized", normalized)))


def _is_special(entry: Any) -> bool:
    return isinstance(entry, dict) and bool(entry.get("special"))


def _whole(value: Any, content: str) -> int:
    try:
        return int(value)
    except (TypeError, ValueError):
        raise CheckpointError(
            f"The tokenizer gives the token {content!r} the id {value!r}.",
            "An id is a whole number: get the files anew.",
        ) from None


def _mapping(config: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    value = config[key]
    if not isinstance(value, dict):
        raise CheckpointError(f"The tokenizer's {key} is {value!r}.", "It is a JSON object: get the files anew.")
    return value


def _extra(settings: Mapping[str, Any]) -> list[Any]:
    """Tokens without a role of CLIP's: listed ones, and any other `..._token`."""
    listed = next((settings[key] for key in EXTRA if settings.get(key)), [])
    listed = list(listed.values()) if isinstance(listed, dict) else listed
    if not isinstance(listed, list):
        raise CheckpointError(f"The tokenizer's special tokens are {listed!r}.", "It is a list: get the files anew.")
    return listed + [
        value
        for key, value in settings.items()
        if key.endswith("_token") and key not in NAMES and isinstance(value, str)
    ]
