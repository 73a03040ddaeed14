"""Every way in which checkpoints declare special tokens, against what transformers makes of it."""

from __future__ import annotations

import pytest
from transformers import CLIPTokenizer

from mlxdiff.errors import CheckpointError, UnsupportedError
from mlxdiff.text import Tokenizer
from mlxdiff.text.special import read_special_tokens
from mlxdiff.text.vocabulary import TokenizerFiles, clip_vocabulary

START, END = "<|startoftext|>", "<|endoftext|>"
N = 516  # size of the tiny vocabulary


def dict_token(content: str, **others) -> dict:
    return {"content": content, "lstrip": False, "normalized": True, "rstrip": False, "single_word": False, **others}


def added(content: str, **others) -> dict:
    return {"__type": "AddedToken", **dict_token(content, **others)}


LAYOUTS = {
    "nothing": {},
    "strings": {"config": {"bos_token": START, "eos_token": END, "unk_token": END, "pad_token": END}},
    "all normalized": {
        "config": {
            "bos_token": added(START),
            "eos_token": added(END),
            "unk_token": added(END),
            "pad_token": added(END),
        }
    },
    "padding decides": {
        "config": {"bos_token": added(START), "eos_token": added(END), "unk_token": added(END), "pad_token": END}
    },
    "padding alone": {"config": {"eos_token": END, "pad_token": added(END)}},
    "end alone": {"config": {"eos_token": added(END)}},
    "unknown alone": {"config": {"eos_token": END, "unk_token": added(END), "pad_token": END}},
    "without the flag": {"config": {"bos_token": {"__type": "AddedToken", "content": START}}},
    "exclamation mark": {"config": {"pad_token": "!"}},
    "exclamation mark, normalized": {"config": {"pad_token": added("!")}},
    "older map": {
        "config": {"pad_token": END},
        "special_tokens_map": {
            "bos_token": dict_token(START),
            "eos_token": dict_token(END),
            "unk_token": END,
            "pad_token": "!",
        },
    },
    "older map without flags": {
        "config": {},
        "special_tokens_map": {"bos_token": {"content": START}, "eos_token": {"content": END}},
    },
    "declared": {
        "config": {
            "pad_token": "!",
            "added_tokens_decoder": {
                "0": dict_token("!", normalized=False, special=True),
                "514": dict_token(START, special=True),
                "515": dict_token(END, normalized=False, special=True),
            },
        },
    },
    "declared, so the map is not read": {
        "config": {"added_tokens_decoder": {"515": dict_token(END, special=True)}},
        "special_tokens_map": {"pad_token": "!"},
    },
    "a new token": {"config": {"added_tokens_decoder": {str(N): dict_token("<New>", special=False)}}},
    "new tokens in order": {
        "config": {
            "added_tokens_decoder": {str(N + 1): dict_token("<b>"), str(N): dict_token("<a>"), "514": dict_token(START)}
        }
    },
    "a word of its own": {"config": {"added_tokens_decoder": {str(N): dict_token("cat", special=False)}}},
    "overlapping": {"config": {"added_tokens_decoder": {str(N): dict_token("<a"), str(N + 1): dict_token("<a><b")}}},
    "added tokens": {"config": {}, "added_tokens": {"<b>": N + 1, "<a>": N}},
    "extra, old name": {"config": {"additional_special_tokens": ["<a>", "<b>"]}},
    "extra": {"config": {"extra_special_tokens": ["<a>", added("<b>")]}},
    "mask": {"config": {"mask_token": added("<a>", lstrip=True)}},
    "another role": {"config": {"picture_token": "<a>"}},
    "another end": {"config": {"eos_token": "cat</w>"}},
}
TEXTS = [
    "",
    "a cat! CAT!! concatenate <|startoftext|><|ENDOFTEXT|> <|endoftext|>!<|STARTOFTEXT|>",
    "<a> <A><b>x<a><b <New> <new> <NEW>",
    "<|endoftext|> <|endoftext|>  <a>  <b>",
]


@pytest.mark.parametrize("layout", LAYOUTS)
def test_special_tokens_are_found_as_by_transformers(tiny_folder, layout):
    folder = tiny_folder(**LAYOUTS[layout])
    ours, theirs = Tokenizer.from_folder(folder), CLIPTokenizer.from_pretrained(folder)
    for text in TEXTS:
        assert ours.encode(text) == theirs(text).input_ids
    assert (ours.bos_id, ours.eos_id, ours.pad_id) == (theirs.bos_token_id, theirs.eos_token_id, theirs.pad_token_id)
    assert ours.vocab_size == len(theirs)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_special_tokens_survive_transformers_5(tiny_folder, tmp_path, layout):
    CLIPTokenizer.from_pretrained(tiny_folder(**LAYOUTS[layout])).save_pretrained(tmp_path / "new")
    ours, theirs = Tokenizer.from_folder(tmp_path / "new"), CLIPTokenizer.from_pretrained(tmp_path / "new")
    for text in TEXTS:
        assert ours.encode(text) == theirs(text).input_ids
    assert ours.pad_id == theirs.pad_token_id


def test_a_token_may_be_an_object_without_a_type(tiny_folder):
    tokenizer = Tokenizer.from_folder(
        tiny_folder(config={"bos_token": dict_token(START), "pad_token": {"content": "!"}})
    )
    assert tokenizer.pad_id == 0
    assert tokenizer.encode("cat") == [514, 513, 515]


def test_null_is_the_default(tiny_folder):
    tokenizer = Tokenizer.from_folder(tiny_folder(config={"pad_token": None, "mask_token": None}))
    assert tokenizer.pad_id == tokenizer.eos_id == 515


def test_whole_word_tokens_are_refused(tiny_folder):
    config = {"added_tokens_decoder": {str(N): dict_token("cat", single_word=True)}}
    with pytest.raises(UnsupportedError, match="whole words"):
        Tokenizer.from_folder(tiny_folder(config=config))


def test_many_added_tokens_get_their_ids_at_once_and_more_are_refused():
    def listed(count: int) -> dict:
        return {f"<t{i}>": 49408 + i for i in range(count)}

    special = read_special_tokens({}, {}, listed(19_998), [])
    assert len(special.tokens) == 20_000
    tokenizer = Tokenizer(TokenizerFiles(clip_vocabulary(), special))
    assert tokenizer.encode("a <t7> cat")[2] == 49408 + 7
    with pytest.raises(CheckpointError, match="lists 20001 special tokens, and up to 20000 are read"):
        read_special_tokens({}, {}, listed(20_001), [])


@pytest.mark.parametrize("value", [2, 30_000, 77.5, "77", True])
def test_a_context_that_no_text_encoder_has_is_refused(value):
    files = TokenizerFiles(clip_vocabulary(), read_special_tokens({}, {}, {}, []), value)
    with pytest.raises(CheckpointError, match="model_max_length is"):
        Tokenizer(files)
