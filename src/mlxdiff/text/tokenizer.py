"""CLIP's tokenizer: prompts to ids, the same ids as transformers' CLIPTokenizer for any text.

text -> special tokens cut out -> NFC, one space, lower case -> words -> bytes -> byte pairs joined -> ids
Knows nothing of the text encoder: ids are plain Python integers.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Sequence
from functools import lru_cache, partial
from pathlib import Path

from ..errors import CheckpointError, MlxdiffWarning, RequestError
from .bpe import END_OF_WORD, decode_symbols, encode_word
from .normalize import words
from .special import Splitter, read_special_tokens
from .vocabulary import AGAIN, TokenizerFiles, clip_vocabulary, read_folder

CONTEXT = 77
LONGEST = 1024  # tokens that a text encoder may read at once: CLIP reads 77, its longest relatives 248
UNLIMITED = 100_000  # transformers writes 10**30 for a tokenizer that has no limit of its own
CACHED_WORDS = 16_384
LONGEST_CACHED = 64  # letters
SHOWN = 60  # letters of the lost text in the warning


class Tokenizer:
    """Ids of prompts. `bos_id`, `eos_id` and `pad_id` start, end and fill them up to `max_length` tokens.

    comma_id  the token of a comma that stands alone, None where the vocabulary has none
    """

    def __init__(self, files: TokenizerFiles) -> None:
        vocab, special = files.vocabulary, files.special
        ids = dict(vocab.ids)
        # A declared token without an id takes the next free one, as textual inversion's do.
        following = max(len(vocab.ids), max(ids.values(), default=-1) + 1)
        for token in special.tokens:
            if token.content not in ids:
                ids[token.content] = following
                following += 1
        for name in ("bos_token", "eos_token", "unk_token", "pad_token"):
            content = special.names[name]
            if content not in vocab.ids and content not in special.declared:
                raise CheckpointError(f"The tokenizer's {name} {content!r} is not in its vocabulary.", AGAIN)
        self.bos_id, self.eos_id, self.pad_id = (ids[special.names[f"{n}_token"]] for n in ("bos", "eos", "pad"))
        self.max_length = _max_length(files.max_length)
        self.vocab_size = max(ids.values()) + 1
        self._symbols = {index: symbol for symbol, index in ids.items()}
        self._splitter = Splitter(special.tokens, ids)
        marks = {special.names["bos_token"], special.names["eos_token"]}
        padding = special.names["pad_token"]
        texts = [token for token in special.tokens if token.content != padding or token.content in marks]
        self._text_splitter = Splitter(texts, ids)
        self.comma_id = ids.get("," + END_OF_WORD)
        unknown = ids[special.names["unk_token"]]
        self._encode = partial(encode_word, vocab=vocab, unknown=unknown)
        self._encode_cached = lru_cache(CACHED_WORDS)(self._encode)

    @property
    def room(self) -> int:
        """Tokens beside the start and the end: CLIP's 75."""
        return self.max_length - 2

    @classmethod
    def from_folder(cls, path: str | Path) -> Tokenizer:
        """Reads vocab.json with merges.txt, or tokenizer.json, and what stands beside them.

        Raises CheckpointError for missing or damaged files, UnsupportedError for a tokenizer that is not CLIP's kind.
        """
        return cls(read_folder(Path(path)))

    @classmethod
    def clip(cls, pad_token: str | None = None) -> Tokenizer:
        """OpenAI's CLIP tokenizer, from the package's own files.

        pad_token  None pads with the end of text (SD 1.x, SDXL's first encoder); SD 2.x and SDXL's second want "!"
        """
        config = {} if pad_token is None else {"pad_token": pad_token}
        return cls(TokenizerFiles(clip_vocabulary(), read_special_tokens(config, {}, {}, [])))

    def encode(self, text: str) -> list[int]:
        """Ids with start and end, neither padded nor truncated. Raises RequestError for what is not Unicode text."""
        return [self.bos_id, *self._ids(text, self._splitter), self.eos_id]

    def text_ids(self, text: str) -> list[int]:
        """Ids of the text alone, in which the padding token is text like any other.

        SD 2.x and SDXL pad with "!": A1111 and ComfyUI read that in a prompt as an exclamation mark,
        diffusers as padding.
        """
        return self._ids(text, self._text_splitter)

    def _ids(self, text: str, splitter: Splitter) -> list[int]:
        _check(text)
        ids = []
        for part in splitter.split(text):
            if isinstance(part, int):
                ids.append(part)
                continue
            for word in words(part):
                ids += self._encode_cached(word) if len(word) <= LONGEST_CACHED else self._encode(word)
        return ids

    def symbol(self, index: int) -> str:
        """How the vocabulary writes an id: a word's last token ends in `</w>`. U+FFFD where there is no such id."""
        return self._symbols.get(index, "\ufffd")

    def pad(self, ids: Sequence[int]) -> list[int]:
        """Exactly `max_length` ids; what is too much is cut before the end, and a MlxdiffWarning shows it."""
        ids = list(ids)
        if len(ids) > self.max_length:
            kept, lost = ids[: self.max_length - 1], ids[self.max_length - 1 : -1]
            warnings.warn(MlxdiffWarning(self.loss(lost)), stacklevel=2)
            return [*kept, self.eos_id]
        return ids + [self.pad_id] * (self.max_length - len(ids))

    def batch(self, texts: Iterable[str]) -> list[list[int]]:
        """One padded row of `max_length` ids for each text."""
        return [self.pad(self.encode(text)) for text in texts]

    def decode(self, ids: Iterable[int]) -> str:
        """The text of ids, lower case, without start, end and what pads behind it; U+FFFD where there is no such id."""
        ids = list(ids)
        if self.eos_id in ids:
            ids = ids[: len(ids) - ids[::-1].index(self.eos_id)]
        return self._text(ids)

    def _text(self, ids: Iterable[int]) -> str:
        silent = {self.bos_id, self.eos_id}
        return decode_symbols([self._symbols.get(index, "\ufffd") for index in ids if index not in silent])

    def loss(self, lost: Sequence[int]) -> str:
        """The warning for a prompt whose last ids `lost` were cut."""
        text = self._text(lost)
        shown = text if len(text) <= SHOWN else f"{text[: SHOWN - 3].rstrip()}..."
        room, tokens = self.room, "token does" if len(lost) == 1 else "tokens do"
        return (
            f"The prompt is too long: its last {len(lost)} {tokens} not fit and do nothing: {shown!r}. "
            f"Shorten it to {room} tokens, which are about {room * 3 // 4} words."
        )


def _check(text: str) -> None:
    if not isinstance(text, str):
        raise RequestError(f"A prompt is {type(text).__name__}, not text.", "Give a string.")
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise RequestError(
            f"Character {error.start + 1} of a prompt is no text: a lone surrogate, U+{ord(text[error.start]):04X}.",
            "Write the prompt in UTF-8.",
        ) from None


def _max_length(value: object) -> int:
    if value is None or (isinstance(value, int | float) and value > UNLIMITED):
        return CONTEXT
    if not isinstance(value, int) or isinstance(value, bool) or not 3 <= value <= LONGEST:
        raise CheckpointError(
            f"The tokenizer's model_max_length is {value!r}.",
            f"It is a whole number from 3 to {LONGEST}, usually 77: get the files anew.",
        )
    return value
