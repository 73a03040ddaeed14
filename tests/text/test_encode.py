"""Whole prompts to contexts, against transformers' encoder and each program's arithmetic written out in numpy."""

from __future__ import annotations

import importlib.util
import math
from collections.abc import Sequence

import mlx.core as mx
import numpy as np
import pytest
import torch
from torch_weights import load_state_dict
from transformers import CLIPTextConfig as TorchConfig
from transformers import CLIPTextModel as TorchModel

from mlxdiff.models.clip import CLIPTextConfig, CLIPTextModel
from mlxdiff.text import emphasis
from mlxdiff.text.chunking.chunk import Chunk, Names
from mlxdiff.text.encode import Encoder, encode_a1111, encode_comfyui, encode_compel, encode_plain
from mlxdiff.text.inversion import token_vectors
from mlxdiff.text.syntax import a1111, comfyui, compel, plain
from mlxdiff.text.syntax.prompt import Run
from mlxdiff.text.tokenizer import Tokenizer

TOKENIZER = Tokenizer.clip()
BOS, EOS = TOKENIZER.bos_id, TOKENIZER.eos_id
VECTORS = {"myembed": mx.array(np.random.default_rng(0).normal(size=(3, 32)).astype(np.float32))}
NAMES = Names({"myembed": 3}, TOKENIZER)


@pytest.fixture(scope="module")
def pair():
    """A random encoder of CLIP-L's vocabulary in both libraries."""
    torch.manual_seed(0)
    values = {
        "vocab_size": 49408,
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "initializer_factor": 3.0,
        "eos_token_id": EOS,
        "bos_token_id": BOS,
    }
    theirs = TorchModel(TorchConfig(**values)).eval()
    # As in trained ones the mean is not 0, by which A1111 divides.
    dict(theirs.named_parameters())["final_layer_norm.bias"].data += 0.5
    ours = CLIPTextModel(CLIPTextConfig.from_dict(values))
    state = {name.removeprefix("text_model."): value for name, value in theirs.state_dict().items()}
    return load_state_dict(ours, state), theirs


@pytest.fixture
def encoder(pair) -> Encoder:
    clip, _ = pair

    def states(chunks: Sequence[Chunk]) -> tuple[mx.array, mx.array]:
        vectors = token_vectors(chunks, clip.embeddings.token_embedding, VECTORS)
        out = clip(emphasis.ids_of(chunks), vectors=vectors, hidden=emphasis.hidden_of(chunks))
        return out.last_hidden_state, out.pooled

    return Encoder(TOKENIZER, states, NAMES)


@pytest.fixture
def torch_states(pair):
    """Ids without start and end -> (77, C); `hidden` are places that nothing attends to."""
    _, model = pair

    def states(ids: Sequence[int], hidden: Sequence[int] = ()) -> np.ndarray:
        row = [BOS, *ids, *[EOS] * (76 - len(ids))]
        mask = torch.tensor([[place not in hidden for place in range(77)]]).long()
        with torch.no_grad():
            return model(torch.tensor([row]), attention_mask=mask).last_hidden_state[0].numpy()

    return states


def ids(text: str) -> list[int]:
    return TOKENIZER.text_ids(text)


def weighed(*pairs: tuple[str, float]) -> np.ndarray:
    """(77, 1): the weights of fragments' tokens."""
    weights = [weight for text, weight in pairs for _ in ids(text)]
    return np.array([1.0, *weights, *[1.0] * (76 - len(weights))], dtype=np.float32)[:, None]


def close(ours: mx.array, theirs: np.ndarray) -> None:
    assert ours.shape == theirs.shape
    np.testing.assert_allclose(np.array(ours), theirs, atol=2e-5 * np.abs(theirs).max())


def test_plain_is_one_chunk(encoder, torch_states):
    (entry,) = plain.parse("a (red:1.2) cat", Run(9)).parts[0].entries
    encoded, chunked = encode_plain(entry, [encoder])
    close(encoded.context, torch_states(ids("a (red:1.2) cat")))
    assert chunked.lost == ()
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


def test_a1111s_entries_share_one_mean(encoder, torch_states):
    found = encode_a1111(a1111.parse("a [(red:1.5):blue:0.5] cat", Run(10)).parts[0], [encoder])
    z = np.stack([torch_states(ids("a") + ids(word) + ids("cat")) for word in ("red", "blue")])
    w = np.stack([weighed(("a", 1), ("red", 1.5)), weighed(("a", 1), ("blue", 1))])
    expected = z * w * (z.mean() / (z * w).mean())
    for row, theirs in zip(found, expected, strict=True):
        close(row.context, theirs)


def test_a1111s_repeated_entries_weigh_in_the_mean(encoder, torch_states):
    """[(a:1.5)|b] over three steps says a, b, a."""
    found = encode_a1111(a1111.parse("[(a:1.5)|b]", Run(3)).parts[0], [encoder])
    z = np.stack([torch_states(ids(word)) for word in "aba"])
    w = np.stack([weighed(("a", 1.5)), weighed(("b", 1)), weighed(("a", 1.5))])
    close(found[2].context, (z * w * (z.mean() / (z * w).mean()))[2])


def test_a1111s_chunks_are_weighed_one_by_one(encoder, torch_states):
    (found,) = encode_a1111(a1111.parse("a BREAK (b:1.4)", Run(3)).parts[0], [encoder, encoder])
    first, second = torch_states(ids("a")), torch_states(ids("b"))
    w = weighed(("b", 1.4))
    second = second * w * (second.mean() / (second * w).mean())
    close(found.context, np.concatenate([np.concatenate([first, second])] * 2, axis=1))


def test_comfyui_weighs_from_the_empty_prompt(encoder, torch_states):
    entry = comfyui.parse("a (red:1.5) (cat:0.3)", Run(3)).parts[0].entries[0]
    z, empty = torch_states(ids("a red cat")), torch_states([])
    w = weighed(("a", 1), ("red", 1.5), ("cat", 0.3))
    close(encode_comfyui(entry, [encoder]).context, empty + (z - empty) * w)


def test_compel_hides_what_it_weakens(encoder, torch_states):
    entry = compel.parse("a (red cat)0.4 b++", Run(3)).parts[0].entries[0]
    w, empty = weighed(("a", 1), ("red cat", 0.4), ("b", 1.1**2)), torch_states([])
    copies = [torch_states(ids("a red cat b"), hidden) for hidden in ((), (2, 3))]
    shares = np.array([1, math.tan(0.6 * math.pi / 2)])
    whole, without = (empty + (z - empty) * w for z in copies)
    expected = (whole * shares[0] + without * shares[1]) / shares.sum()
    close(encode_compel(entry, [encoder]).context, expected.astype(np.float32))


def test_compels_blends_and_conjunctions(encoder, torch_states):
    a, b, empty = torch_states(ids("a")), torch_states(ids("b")), torch_states([])
    blend = compel.parse('("a", "b").blend(1, 3)', Run(3)).parts[0].entries[0]
    close(encode_compel(blend, [encoder]).context, a / 4 + b * 3 / 4)
    both = compel.parse('("a", "b").and(1, 0.5)', Run(3)).parts[0].entries[0]
    close(encode_compel(both, [encoder]).context, np.concatenate([a, empty + (b - empty) * 0.5]))


COMPEL = [
    "a (big cat)0.5 sits-- on (the)1.4 mat",
    '("a cat", "b-- dog").and(1, .5)',
    "a cat sits. " * 30,
    "(a cat, )0.5" * 40 + " end",
    '("a cat", "' + "dog " * 100 + '").blend(.3, .7)',
    "x " * 70 + "(one two three four five six seven)0.5 eight",
]


@pytest.mark.skipif(importlib.util.find_spec("compel") is None, reason="compel is not installed")
@pytest.mark.parametrize("text", COMPEL, ids=range(len(COMPEL)))
def test_contexts_are_compels(pair, encoder, text, reference):
    from compel import Compel

    theirs = Compel(reference, pair[1], truncate_long_prompts=False)
    with torch.no_grad():
        expected = theirs(text)[0].numpy()
    close(encode_compel(compel.parse(text, Run(3)).parts[0].entries[0], [encoder]).context, expected)


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
