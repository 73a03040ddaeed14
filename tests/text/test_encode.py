"""Whole prompts to contexts, against transformers' encoder and each program's arithmetic written out in numpy."""

from __future__ import annotations

import importlib.util

import mlx.core as mx
import numpy as np
import prompt_oracle
import pytest
import torch
from prompt_oracle import BOS, CASES, COMPEL, EOS, VECTORS, contexts, ids, relative

from mlxdiff.text.chunking.chunk import Chunk
from mlxdiff.text.encode import Encoder, encode_a1111, encode_comfyui, encode_compel, encode_plain
from mlxdiff.text.inversion import token_vectors
from mlxdiff.text.syntax import a1111, comfyui, compel, plain
from mlxdiff.text.syntax.prompt import Run

TOLERANCE = 2e-5


@pytest.fixture(scope="module")
def pair():
    return prompt_oracle.encoders()


@pytest.fixture
def encoder(pair) -> Encoder:
    return prompt_oracle.encoder_of(pair[0])


def close(ours: mx.array, theirs: np.ndarray) -> None:
    assert ours.shape == theirs.shape
    np.testing.assert_allclose(np.array(ours), theirs, atol=TOLERANCE * np.abs(theirs).max())


@pytest.mark.parametrize("case", CASES, ids=[f"{case.syntax}-{case.prompt}" for case in CASES])
def test_a_prompt_is_encoded_as_its_program_does(pair, encoder, case):
    expected = case.expected(prompt_oracle.torch_states_of(pair[1]))
    found = contexts(case.syntax, case.prompt, encoder, case.steps)
    assert relative(found, list(expected)) < TOLERANCE


def test_what_plain_prompts_lose_is_said(encoder):
    assert encode_plain(plain.parse("a cat", Run(9)).parts[0].entries[0], [encoder])[1].lost == ()
    assert len(encode_plain(plain.parse("cat " * 80, Run(9)).parts[0].entries[0], [encoder])[1].lost) == 5


def test_syntaxes_agree_on_a_prompt_without_marks(encoder):
    text = "a red apple on a table"
    (found,) = encode_a1111(a1111.parse(text, Run(9)).parts[0], [encoder])
    expected, _ = encode_plain(plain.parse(text, Run(9)).parts[0].entries[0], [encoder])
    assert mx.array_equal(found.context, expected.context)
    for syntax, encode in ((comfyui, encode_comfyui), (compel, encode_compel)):
        other = encode(syntax.parse(text, Run(9)).parts[0].entries[0], [encoder])
        close(other.context, np.array(expected.context))
        close(other.pooled, np.array(expected.pooled))


def test_the_states_of_two_encoders_stand_side_by_side(encoder):
    part = a1111.parse("a BREAK (b:1.4)", Run(3)).parts[0]
    (one,), (two,) = encode_a1111(part, [encoder]), encode_a1111(part, [encoder, encoder])
    assert mx.array_equal(two.context, mx.concatenate([one.context] * 2, axis=1))


@pytest.mark.skipif(importlib.util.find_spec("compel") is None, reason="compel is not installed")
@pytest.mark.parametrize("text", COMPEL, ids=range(len(COMPEL)))
def test_contexts_are_compels(pair, encoder, text, reference):
    from compel import Compel

    theirs = Compel(reference, pair[1], truncate_long_prompts=False)
    with torch.no_grad():
        expected = theirs(text)[0].numpy()
    assert relative(contexts("compel", text, encoder), [expected]) < TOLERANCE


def test_a_textual_inversion_stands_in_for_tokens(pair, encoder):
    _, model = pair
    (found,) = encode_a1111(a1111.parse("a (myembed:1.0) cat", Run(3)).parts[0], [encoder])
    row = torch.tensor([[BOS, *ids("a"), 0, 0, 0, *ids("cat"), *[EOS] * 71]])
    table = model.get_input_embeddings()

    def replaced(_module, _inputs, output):
        output[0, 2:5] = torch.from_numpy(np.array(VECTORS["myembed"]))
        return output

    handle = table.register_forward_hook(replaced)
    with torch.no_grad():
        expected = model(row).last_hidden_state[0].numpy()
    handle.remove()
    close(found.context, expected)


def test_chunks_without_textual_inversions_need_no_vectors(pair):
    clip, _ = pair
    assert token_vectors([Chunk((0,) * 77, (1.0,) * 77)], clip.embeddings.token_embedding, VECTORS) is None
