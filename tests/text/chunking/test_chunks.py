"""Chunks of token ids against what A1111 and ComfyUI gave, and against diffusers' tokenizer."""

from __future__ import annotations

import math
import warnings

import pytest
from hypothesis import given
from hypothesis import strategies as st
from recipe_numbers import prompts, run_lengths

from mlxdiff.errors import RequestError
from mlxdiff.text.chunking import a1111, comfyui, compel, plain
from mlxdiff.text.chunking.chunk import Names, Placement, empty
from mlxdiff.text.syntax import a1111 as a1111_syntax
from mlxdiff.text.syntax import comfyui as comfyui_syntax
from mlxdiff.text.syntax.prompt import Break, Fragment
from mlxdiff.text.tokenizer import Tokenizer

TOKENIZER, OPEN_CLIP = Tokenizer.clip(), Tokenizer.clip("!")
NAMES = Names({"myembed": 3, "bigembed": 20}, TOKENIZER)
CAT, COMMA = 2368, 267


def words(*texts: str) -> list[Fragment]:
    return [Fragment(text) for text in texts]


@pytest.mark.parametrize("case", prompts("a1111_chunks"), ids=lambda case: case["prompt"][-40:])
def test_a1111s_chunks(case):
    found = a1111.chunk(a1111_syntax.attention(case["prompt"]), TOKENIZER, NAMES)
    assert found.token_count == case["token_count"]
    assert [
        {
            "tokens_rle": run_lengths(chunk.ids),
            "multipliers_rle": [[float(f"{weight:.9g}"), n] for weight, n in run_lengths(chunk.weights)],
            "embeddings": [[place.offset - 1, place.name, place.vectors] for place in chunk.placements],
        }
        for chunk in found.chunks
    ] == case["chunks"]


@pytest.mark.parametrize("case", prompts("comfy_tokens"), ids=lambda case: case["prompt"][-40:])
def test_comfyuis_chunks(case):
    found = comfyui.chunk(comfyui_syntax.fragments(case["prompt"]), TOKENIZER)
    assert [
        {"tokens_rle": run_lengths(chunk.ids), "weights_rle": run_lengths(chunk.weights)} for chunk in found.chunks
    ] == case["batches"]


@pytest.mark.parametrize("backtrack", [0, 5, 20, 75])
@pytest.mark.parametrize("comma", [1, 40, 54, 55, 56, 70, 74])
def test_a_chunk_ends_at_a_comma_that_is_near_enough(backtrack, comma):
    text = f"{'cat ' * comma}, {'cat ' * (90 - comma)}"
    first, *_ = a1111.chunk(words(text), TOKENIZER, comma_backtrack=backtrack).chunks
    near = 0 < 75 - comma <= backtrack
    assert sum(index in (CAT, COMMA) for index in first.ids) == (comma + 1 if near else 75)


def test_a_moved_textual_inversion_leaves_its_vectors_behind():
    """A1111 keeps the place where they were, which is padding then; the tokens move as zeros."""
    first, second = a1111.chunk(words("cat " * 60 + ", cat myembed" + " cat" * 20), TOKENIZER, NAMES).chunks
    assert first.placements == (Placement(63, "myembed", 3),)
    assert first.ids[62:] == (TOKENIZER.eos_id,) * 15
    assert second.placements == ()
    assert second.ids[1:5] == (CAT, 0, 0, 0)


def test_a_break_pads_and_a_trailing_one_adds_nothing():
    found = a1111.chunk([*words("cat"), Break(), *words("cat"), Break()], TOKENIZER)
    assert [chunk.ids[:3] for chunk in found.chunks] == [(TOKENIZER.bos_id, CAT, TOKENIZER.eos_id)] * 2


def test_texts_of_one_prompt_get_the_same_number_of_chunks():
    long, short = (a1111.chunk(words("cat " * n), TOKENIZER) for n in (100, 1))
    rows = a1111.level([long, short], TOKENIZER)
    assert [len(row) for row in rows] == [2, 2]
    assert rows[1][1] == empty(TOKENIZER)


def test_open_clip_is_padded_with_zeros_behind_the_first_end():
    (chunk,) = a1111.chunk(words("cat <|endoftext|> cat"), OPEN_CLIP).chunks
    assert chunk.ids == (OPEN_CLIP.bos_id, CAT, OPEN_CLIP.eos_id, *(0,) * 74)
    (chunk,) = comfyui.chunk(words("cat"), OPEN_CLIP).chunks
    assert chunk.ids == (OPEN_CLIP.bos_id, CAT, OPEN_CLIP.eos_id, *(0,) * 74)


def test_an_exclamation_mark_is_text_for_a1111_and_padding_for_diffusers():
    (ours,), (theirs,) = a1111.chunk(words("!"), OPEN_CLIP).chunks, plain.chunk("!", OPEN_CLIP).chunks
    assert (ours.ids[1], theirs.ids[1]) == (256, 0)


@pytest.mark.parametrize("tokenizer", [TOKENIZER, OPEN_CLIP])
@given(text=st.text(st.sampled_from("abc ,.!é"), max_size=300))
def test_plain_chunks_are_diffusers(tokenizer, text):
    found = plain.chunk(text, tokenizer)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        (expected,) = tokenizer.batch([text])
    assert list(found.chunks[0].ids) == expected
    assert len(found.lost) == max(len(tokenizer.encode(text)) - 77, 0)
    assert not found.chunks[0].is_weighted


@given(st.lists(st.tuples(st.text(st.sampled_from("ab ,é1"), max_size=60), st.sampled_from([1, 0.5, 1.3])), max_size=8))
def test_no_token_is_lost(pairs):
    fragments = [Fragment(text, weight) for text, weight in pairs]
    ids = [index for fragment in fragments for index in TOKENIZER.text_ids(fragment.text)]
    weights = [fragment.weight for fragment in fragments for _ in TOKENIZER.text_ids(fragment.text)]
    for chunk in (a1111.chunk, comfyui.chunk, lambda *args: compel.chunk(*args)[0]):
        chunks = chunk(fragments, TOKENIZER).chunks
        kept = [
            (index, weight)
            for each in chunks
            for index, weight in zip(each.ids, each.weights, strict=True)
            if index not in (TOKENIZER.bos_id, TOKENIZER.eos_id)
        ]
        assert kept == list(zip(ids, weights, strict=True))
        assert all(len(each.ids) == len(each.weights) == 77 for each in chunks)


def test_names_are_found_longest_first_and_by_tokens():
    names = Names({"cat": 1, "cat dog": 2}, TOKENIZER)
    (chunk,) = a1111.chunk(words("CAT dog, cat"), TOKENIZER, names).chunks
    assert chunk.placements == (Placement(1, "cat dog", 2), Placement(4, "cat", 1))


def test_comfyui_reads_embedding_names():
    found = comfyui.chunk(
        [Fragment("embedding:myembed, a embedding:none b", 1.2), *words("x\nembedding:bigembed")], TOKENIZER, NAMES
    )
    (chunk,) = found.chunks
    assert chunk.placements == (Placement(1, "myembed", 3), Placement(8, "bigembed", 20))
    assert chunk.ids[4:8] == (COMMA, *TOKENIZER.text_ids("a b x"))
    assert chunk.weights[1:9] == (1.2,) * 6 + (1.0, 1.0)


def test_comfyui_leaves_names_as_text_without_any_to_know():
    (chunk,) = comfyui.chunk(words("embedding:myembed"), TOKENIZER).chunks
    assert chunk.placements == ()
    assert chunk.ids[1] != 0


def test_comfyui_cuts_a_long_embedding_in_two():
    first, second = comfyui.chunk(words("cat " * 70, "embedding:bigembed"), TOKENIZER, NAMES).chunks
    assert first.placements == (Placement(71, "bigembed", 5),)
    assert second.placements == (Placement(1, "bigembed", 15, first=5),)


def test_plain_prompts_know_names_letter_by_letter():
    names = Names({"<cat>": 2}, TOKENIZER)
    (chunk,) = plain.chunk("a <cat><CAT>", TOKENIZER, names).chunks
    assert chunk.placements == (Placement(2, "<cat>", 2),)


def test_a_fragment_below_1_adds_a_copy_without_it():
    found, (whole, copy) = compel.chunk([*words("a"), Fragment("big cat", 0.5), *words("b")], TOKENIZER)
    assert whole.chunks == found.chunks
    assert copy.chunks[0].hidden == {2, 3}
    assert (whole.weight, copy.weight) == pytest.approx((0.5, 0.5))


@given(st.lists(st.floats(-1, 2), max_size=6))
def test_shares_add_up_to_1(weights):
    _, shares = compel.chunk([Fragment("cat", weight) for weight in weights], TOKENIZER)
    assert len(shares) == 1 + sum(weight < 1 for weight in weights)
    assert sum(share.weight for share in shares) == pytest.approx(1)
    assert all(0 not in chunk.hidden and 76 not in chunk.hidden for share in shares for chunk in share.chunks)


@pytest.mark.parametrize(("end", "length"), [(".", 50), (",", 50), ("", 75)])
def test_compels_chunks_end_with_sentences(end, length):
    found, _ = compel.chunk(words(f"{'cat ' * 49}cat{end} {'cat ' * 60}"), TOKENIZER)
    first = [index for index in found.chunks[0].ids[1:] if index != TOKENIZER.eos_id]
    assert len(first) == length + len(end)


@pytest.mark.parametrize("chunk", [a1111.chunk, comfyui.chunk, compel.chunk])
def test_too_many_chunks_are_refused(chunk):
    with pytest.raises(RequestError, match="1000 chunks"):
        chunk(words("cat " * 80_000), TOKENIZER)


def test_too_many_copies_are_refused():
    with pytest.raises(RequestError, match="1000 chunks"):
        compel.chunk([Fragment("cat", 0.5 + i * 1e-6) for i in range(1200)], TOKENIZER)


@pytest.mark.parametrize("weight", [math.nan, math.inf, -math.inf, 1e31, -1e300])
def test_a_weight_that_is_no_number_is_refused(weight):
    with pytest.raises(RequestError, match="The weight of 'cat'"):
        comfyui.chunk([Fragment("cat", weight)], TOKENIZER)


@pytest.mark.parametrize("vectors", [0, 76])
def test_a_textual_inversion_of_too_many_vectors_is_refused(vectors):
    with pytest.raises(RequestError, match=f"has {vectors} vectors"):
        a1111.chunk(words("myembed"), TOKENIZER, Names({"myembed": vectors}, TOKENIZER))


@pytest.mark.parametrize("length", [3, 5, 14, 76])
def test_chunks_are_as_long_as_the_tokenizer_says(length):
    """A tokenizer of few tokens (`model_max_length`) cuts a prompt into many chunks, and loses no token."""
    short = Tokenizer.clip()
    short.max_length = length
    text = "a photograph of an astronaut, riding a horse on mars, in the evening sun"
    fragment = Fragment(text, 1.0)
    every = tuple(Tokenizer.clip().text_ids(text))
    for chunks in (
        a1111.chunk([fragment], short).chunks,
        comfyui.chunk([fragment], short).chunks,
        compel.chunk([fragment], short)[0].chunks,
    ):
        assert {len(chunk.ids) for chunk in chunks} == {len(chunk.weights) for chunk in chunks} == {length}
        marks = {short.bos_id, short.eos_id, short.pad_id}
        assert tuple(token for chunk in chunks for token in chunk.ids if token not in marks) == every
