"""Both layouts on disk, and damaged files."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from transformers import CLIPTokenizer

from mlxdiff.errors import CheckpointError, MlxdiffError, UnsupportedError
from mlxdiff.text import Tokenizer
from mlxdiff.text.vocabulary import read_folder

TEXT = "A cat!! <|endoftext|> <|ENDOFTEXT|> 猫 c'est ça"


@pytest.fixture
def unified(tmp_path, tiny_tokenizer) -> Path:
    """The same tokenizer as transformers 5 writes it: tokenizer.json and no vocab.json."""
    CLIPTokenizer.from_pretrained(tiny_tokenizer).save_pretrained(tmp_path / "unified")
    assert not (tmp_path / "unified" / "vocab.json").exists()
    return tmp_path / "unified"


def edit(path: Path, change) -> None:
    contents = json.loads(path.read_text())
    path.write_text(json.dumps(change(contents) or contents))


def test_both_layouts_are_one_tokenizer(tiny_tokenizer, unified):
    old, new = Tokenizer.from_folder(tiny_tokenizer), Tokenizer.from_folder(str(unified))
    expected = CLIPTokenizer.from_pretrained(unified)(TEXT).input_ids
    assert old.encode(TEXT) == new.encode(TEXT) == expected
    assert old.max_length == new.max_length == 77


def test_merges_may_be_pairs_or_strings(unified):
    def flip(contents):
        merges = contents["model"]["merges"]
        contents["model"]["merges"] = [" ".join(m) if isinstance(m, list) else m.split(" ") for m in merges]

    before = Tokenizer.from_folder(unified).encode(TEXT)
    kinds = {type(merge) for merge in json.loads((unified / "tokenizer.json").read_text())["model"]["merges"]}
    edit(unified / "tokenizer.json", flip)
    assert {type(m) for m in json.loads((unified / "tokenizer.json").read_text())["model"]["merges"]}.isdisjoint(kinds)
    assert Tokenizer.from_folder(unified).encode(TEXT) == before


def test_tokenizer_json_alone_is_enough(unified):
    for path in unified.iterdir():
        if path.name != "tokenizer.json":
            path.unlink()
    assert Tokenizer.from_folder(unified).encode(TEXT) == CLIPTokenizer.from_pretrained(unified)(TEXT).input_ids


def test_a_unified_file_counts_before_the_old_ones(tiny_tokenizer, unified):
    (tiny_tokenizer / "tokenizer.json").write_bytes((unified / "tokenizer.json").read_bytes())
    (tiny_tokenizer / "merges.txt").write_text("not a merge at all\n")
    assert Tokenizer.from_folder(tiny_tokenizer).encode(TEXT) == Tokenizer.from_folder(unified).encode(TEXT)


def test_windows_line_ends_change_nothing(tiny_tokenizer):
    before = Tokenizer.from_folder(tiny_tokenizer).encode(TEXT)
    merges = tiny_tokenizer / "merges.txt"
    merges.write_bytes(merges.read_bytes().replace(b"\n", b"\r\n"))
    assert Tokenizer.from_folder(tiny_tokenizer).encode(TEXT) == before


@pytest.mark.parametrize(("value", "expected"), [(None, 77), (10**30, 77), (1e30, 77), (77, 77), (40, 40), (248, 248)])
def test_the_config_limits_the_length(tiny_tokenizer, value, expected):
    edit(tiny_tokenizer / "tokenizer_config.json", lambda config: {**config, "model_max_length": value})
    tokenizer = Tokenizer.from_folder(tiny_tokenizer)
    assert tokenizer.max_length == expected
    assert len(tokenizer.pad(tokenizer.encode("a cat"))) == expected


@pytest.mark.parametrize("value", [0, -1, 2, "77", True, [77], 76.5])
def test_a_length_that_is_none_is_an_error(tiny_tokenizer, value):
    edit(tiny_tokenizer / "tokenizer_config.json", lambda config: {**config, "model_max_length": value})
    with pytest.raises(CheckpointError, match="model_max_length"):
        Tokenizer.from_folder(tiny_tokenizer)


DAMAGE = {
    "no vocabulary": lambda f: (f / "vocab.json").unlink(),
    "no merges": lambda f: (f / "merges.txt").unlink(),
    "vocabulary not JSON": lambda f: (f / "vocab.json").write_text('{"a": 1'),
    "vocabulary a list": lambda f: (f / "vocab.json").write_text("[1, 2]"),
    "vocabulary too deep": lambda f: (f / "vocab.json").write_text("[" * 100_000),
    "vocabulary not text": lambda f: (f / "vocab.json").write_bytes(b"\xff\xfe{"),
    "vocabulary a folder": lambda f: ((f / "vocab.json").unlink(), (f / "vocab.json").mkdir()),
    "ids are strings": lambda f: edit(f / "vocab.json", lambda v: {k: str(i) for k, i in v.items()}),
    "a negative id": lambda f: edit(f / "vocab.json", lambda v: {**v, "a": -1}),
    "an id true": lambda f: edit(f / "vocab.json", lambda v: {**v, "a": True}),
    "merge makes nothing": lambda f: edit(f / "vocab.json", lambda v: {k: i for k, i in v.items() if k != "ca"}),
    "merge takes nothing": lambda f: (f / "merges.txt").write_text("#version: 0.2\nzz zz\n"),
    "merge of one": lambda f: (f / "merges.txt").write_text("#version: 0.2\nc a\nct</w>\n"),
    "merge of three": lambda f: (f / "merges.txt").write_text("#version: 0.2\nc a t</w>\n"),
    "merges with a gap": lambda f: (f / "merges.txt").write_text("#version: 0.2\nc a\n\nca t</w>\n"),
    "no start": lambda f: edit(f / "vocab.json", lambda v: {k: i for k, i in v.items() if k != "<|startoftext|>"}),
    "no end": lambda f: edit(f / "vocab.json", lambda v: {k: i for k, i in v.items() if k != "<|endoftext|>"}),
    "no such padding": lambda f: edit(f / "tokenizer_config.json", lambda c: {**c, "pad_token": "[PAD]"}),
    "config not JSON": lambda f: (f / "tokenizer_config.json").write_text("{"),
    "token a number": lambda f: edit(f / "tokenizer_config.json", lambda c: {**c, "bos_token": 7}),
    "token without content": lambda f: edit(f / "tokenizer_config.json", lambda c: {**c, "bos_token": {}}),
    "added tokens a list": lambda f: edit(f / "tokenizer_config.json", lambda c: {**c, "added_tokens_decoder": []}),
    "added token's id a word": lambda f: (f / "added_tokens.json").write_text('{"<new>": "x"}'),
    "extra tokens a string": lambda f: edit(f / "tokenizer_config.json", lambda c: {**c, "extra_special_tokens": "x"}),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_damage_is_an_error_of_two_sentences(tiny_tokenizer, damage):
    DAMAGE[damage](tiny_tokenizer)
    with pytest.raises(CheckpointError) as caught:
        Tokenizer.from_folder(tiny_tokenizer)
    assert caught.value.problem.endswith(".")
    assert caught.value.remedy.endswith(".")


UNIFIED_DAMAGE = {
    "no model": (lambda c: c.pop("model") and None, CheckpointError),
    "no merges": (lambda c: c["model"].pop("merges") and None, CheckpointError),
    "vocabulary a list": (lambda c: c["model"].update(vocab=[["a", 0]]), CheckpointError),
    "a merge of three": (lambda c: c["model"].update(merges=["a b c"]), CheckpointError),
    "a merge of numbers": (lambda c: c["model"].update(merges=[[1, 2]]), CheckpointError),
    "added tokens an object": (lambda c: c.update(added_tokens={"a": 1}), CheckpointError),
    "another kind": (lambda c: c["model"].update(type="Unigram"), UnsupportedError),
}


@pytest.mark.parametrize("damage", UNIFIED_DAMAGE)
def test_damage_in_the_unified_file_is_an_error(unified, damage):
    change, error = UNIFIED_DAMAGE[damage]
    edit(unified / "tokenizer.json", change)
    with pytest.raises(error):
        Tokenizer.from_folder(unified)


def test_a_folder_that_is_not_there_is_an_error(tmp_path):
    with pytest.raises(MlxdiffError, match=r"vocab\.json"):
        Tokenizer.from_folder(tmp_path / "nowhere")


def test_what_never_ends_is_not_read(tmp_path):
    (tmp_path / "tokenizer_config.json").symlink_to("/dev/zero")
    with pytest.raises(CheckpointError, match="no regular file"):
        read_folder(tmp_path)


def test_a_file_far_larger_than_any_tokenizer_is_refused(tmp_path):
    with (tmp_path / "tokenizer_config.json").open("wb") as file:
        file.truncate(2**40)  # a hole: it takes no space
    with pytest.raises(CheckpointError, match="too large for a tokenizer"):
        read_folder(tmp_path)
