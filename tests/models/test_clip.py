"""CLIP's text encoder against transformers."""

from __future__ import annotations

import json
from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest
import torch
from torch_weights import load_state_dict, mlx_shape, parameter_shapes
from transformers import CLIPTextConfig as TorchConfig
from transformers import CLIPTextModel as TorchModel
from transformers import CLIPTextModelWithProjection

import mlxdiff
from mlxdiff.errors import CheckpointError, RequestError, UnsupportedError
from mlxdiff.models.clip import CLIPTextConfig, CLIPTextModel

EMOJI = Path(mlxdiff.__file__).parent / "assets/emoji/text_encoder"
TINY = {
    "vocab_size": 100,
    "hidden_size": 32,
    "intermediate_size": 64,
    "projection_dim": 24,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "max_position_embeddings": 77,
    "eos_token_id": 99,
    "bos_token_id": 98,
    # weights large enough that a wrong activation or norm shows
    "initializer_factor": 5.0,
}


def pair(with_projection: bool = False, **changes):
    """A random encoder in both libraries."""
    torch.manual_seed(0)
    values = {**TINY, **changes}
    kind = CLIPTextModelWithProjection if with_projection else TorchModel
    theirs = kind(TorchConfig(**values)).eval()
    for name, parameter in theirs.named_parameters():
        if name.endswith("bias") or "norm" in name:
            parameter.data += 0.3 * torch.randn(parameter.shape)
    ours = CLIPTextModel(CLIPTextConfig.from_dict(values), with_projection=with_projection)
    state = {name.removeprefix("text_model."): value for name, value in theirs.state_dict().items()}
    return load_state_dict(ours, state), theirs


def prompts(length: int = 77, pad: int = 99) -> np.ndarray:
    """Rows that end at different places, padded as the tokenizers pad."""
    rng = np.random.default_rng(1)
    tokens = np.full((3, length), pad)
    for row, words in enumerate((0, 5, length - 2)):
        tokens[row, 0] = 98
        tokens[row, 1 : 1 + words] = rng.integers(1, 97, words)
        tokens[row, 1 + words] = 99
    return tokens


def relative_error(ours: mx.array, theirs: torch.Tensor) -> float:
    expected = theirs.detach().numpy()
    assert tuple(ours.shape) == expected.shape
    return float(np.linalg.norm(np.array(ours) - expected) / np.linalg.norm(expected))


@torch.no_grad()
def compare(ours, theirs, tokens: np.ndarray, limit: float = 1e-5) -> None:
    out = ours(mx.array(tokens, dtype=mx.int32))
    reference = theirs(torch.tensor(tokens), output_hidden_states=True)
    assert relative_error(out.last_hidden_state, reference.last_hidden_state) < limit
    assert len(out.hidden_states) == len(reference.hidden_states)
    for a, b in zip(out.hidden_states, reference.hidden_states, strict=True):
        assert relative_error(a, b) < limit
    pooled = reference.text_embeds if hasattr(reference, "text_embeds") else reference.pooler_output
    assert relative_error(out.pooled, pooled) < limit


@pytest.mark.parametrize("act", ["quick_gelu", "gelu"])
@pytest.mark.parametrize("with_projection", [False, True])
def test_matches_transformers(act, with_projection):
    compare(*pair(with_projection, hidden_act=act), prompts())


def test_the_activations_differ_enough_to_be_told_apart():
    tokens = mx.array(prompts(), dtype=mx.int32)
    quick, exact = (pair(hidden_act=act)[0](tokens).last_hidden_state for act in ("quick_gelu", "gelu"))
    assert float(mx.abs(quick - exact).max()) > 1e-2


@pytest.mark.parametrize("pad", [0, 99])
@pytest.mark.parametrize("eos", [99, 2])
def test_the_pooled_state_is_found_as_transformers_finds_it(pad, eos):
    compare(*pair(eos_token_id=eos), prompts(pad=pad))


def test_end_of_text_is_sought_by_id_when_larger_ids_exist():
    # Textual inversion appends ids past the end of text: argmax would pick those.
    ours, theirs = pair(vocab_size=120)
    tokens = prompts()
    tokens[1, 3] = 110
    compare(ours, theirs, tokens)


def test_legacy_configs_take_the_largest_id():
    ours, theirs = pair(vocab_size=120, eos_token_id=2)
    tokens = prompts()
    tokens[1, 3], tokens[2, 4] = 110, 2
    compare(ours, theirs, tokens)


def test_a_short_sequence_uses_the_first_positions():
    compare(*pair(), prompts(length=12))


def test_no_token_sees_a_later_one():
    ours, _ = pair()
    tokens = prompts()
    changed = tokens.copy()
    changed[:, 40:] = 7
    a, b = (np.array(ours(mx.array(t, dtype=mx.int32)).last_hidden_state) for t in (tokens, changed))
    np.testing.assert_allclose(a[:, :40], b[:, :40], atol=1e-6)
    assert np.abs(a[:, 40:] - b[:, 40:]).max() > 0.1


def test_the_projection_is_the_only_difference_between_the_two_kinds():
    ours, theirs = pair(with_projection=True)
    tokens = prompts()
    plain = CLIPTextModel(ours.config)
    state = {k.removeprefix("text_model."): v for k, v in theirs.state_dict().items() if "projection" not in k}
    pooled = load_state_dict(plain, state)(mx.array(tokens, dtype=mx.int32)).pooled
    assert pooled.shape == (3, TINY["hidden_size"])
    projected = theirs.text_projection(torch.tensor(np.array(pooled)))
    assert relative_error(ours(mx.array(tokens, dtype=mx.int32)).pooled, projected) < 1e-5


def test_half_precision_stays_half_and_close():
    ours, theirs = pair()
    tokens = prompts()
    with torch.no_grad():
        expected = theirs(torch.tensor(tokens)).last_hidden_state
    ours.set_dtype(mx.float16)
    out = ours(mx.array(tokens, dtype=mx.int32))
    assert {state.dtype for state in (*out.hidden_states, out.last_hidden_state, out.pooled)} == {mx.float16}
    assert relative_error(out.last_hidden_state.astype(mx.float32), expected) < 2e-2


def test_the_built_in_encoder_matches_transformers():
    theirs = TorchModel.from_pretrained(EMOJI, dtype=torch.float32).eval()
    ours = CLIPTextModel(CLIPTextConfig.from_dict(json.loads((EMOJI / "config.json").read_text())))
    tokens = prompts(pad=3413)
    tokens[tokens == 98] = 3412
    tokens[tokens == 99] = 3413
    compare(load_state_dict(ours, theirs.state_dict()), theirs, tokens)


@pytest.mark.parametrize(
    ("with_projection", "values"),
    [
        (False, {"hidden_size": 768, "intermediate_size": 3072, "num_hidden_layers": 12, "num_attention_heads": 12}),
        (False, {"hidden_size": 1024, "intermediate_size": 4096, "num_hidden_layers": 23, "num_attention_heads": 16}),
        (
            True,
            {
                "hidden_size": 1280,
                "intermediate_size": 5120,
                "num_hidden_layers": 32,
                "num_attention_heads": 20,
                "projection_dim": 1280,
            },
        ),
    ],
    ids=["CLIP-L", "OpenCLIP-H", "CLIP-G"],
)
def test_the_published_sizes_have_transformers_parameters(with_projection, values):
    with torch.device("meta"):
        theirs = (CLIPTextModelWithProjection if with_projection else TorchModel)(TorchConfig(**values))
    expected = {k.removeprefix("text_model."): mlx_shape(tuple(v.shape)) for k, v in theirs.state_dict().items()}
    assert parameter_shapes(CLIPTextModel(CLIPTextConfig.from_dict(values), with_projection)) == expected


def test_too_many_tokens_is_an_error():
    ours, _ = pair()
    with pytest.raises(RequestError, match="78 tokens and reads 77"):
        ours(mx.zeros((1, 78), dtype=mx.int32))


def test_missing_keys_take_transformers_defaults():
    config, theirs = CLIPTextConfig.from_dict({}), TorchConfig()
    for name in CLIPTextConfig.__dataclass_fields__:
        assert getattr(config, name) == getattr(theirs, name), name


def test_a_config_of_both_halves_gives_its_text_half():
    config = CLIPTextConfig.from_dict({"model_type": "clip", "text_config": {"hidden_size": 64, "hidden_act": "gelu"}})
    assert (config.hidden_size, config.hidden_act) == (64, "gelu")


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"hidden_act": "gelu_new"}, UnsupportedError, "hidden_act = 'gelu_new'"),
        ({"model_type": "t5"}, UnsupportedError, "model_type = 't5'"),
        ({"hidden_act": 3}, CheckpointError, "hidden_act = 3"),
        ({"hidden_size": "big"}, CheckpointError, "hidden_size = 'big'"),
        ({"hidden_size": True}, CheckpointError, "hidden_size = True"),
        ({"hidden_size": 10**30}, CheckpointError, "hidden_size = 1000"),
        ({"hidden_size": None}, CheckpointError, "hidden_size = None"),
        ({"hidden_size": 30}, CheckpointError, "not a multiple"),
        ({"num_hidden_layers": 10**6}, CheckpointError, "num_hidden_layers"),
        ({"layer_norm_eps": float("nan")}, CheckpointError, "layer_norm_eps = nan"),
        ({"layer_norm_eps": 10**400}, CheckpointError, "layer_norm_eps = 1000"),
        ({"eos_token_id": [1, 2]}, CheckpointError, "eos_token_id"),
    ],
)
def test_a_config_that_cannot_be_honoured_is_refused(changes, error, message):
    with pytest.raises(error, match=message):
        CLIPTextConfig.from_dict({**TINY, **changes})


def test_hidden_tokens_are_those_of_transformers_attention_mask():
    ours, theirs = pair()
    tokens = prompts()
    hidden = np.zeros(tokens.shape, bool)
    hidden[1, 2:4] = hidden[2, 5:40] = True
    found = ours(mx.array(tokens), hidden=mx.array(hidden))
    with torch.no_grad():
        expected = theirs(torch.from_numpy(tokens), attention_mask=torch.from_numpy(~hidden).long())
    assert relative_error(found.last_hidden_state, expected.last_hidden_state) < 1e-5
    without = ours(mx.array(tokens)).last_hidden_state
    assert relative_error(without, expected.last_hidden_state) > 1e-3


def test_vectors_take_the_place_of_token_embeddings():
    ours, _ = pair()
    tokens = mx.array(prompts())
    vectors = ours.embeddings.token_embedding(tokens)
    assert mx.array_equal(ours(tokens, vectors=vectors).pooled, ours(tokens).pooled)
    assert not mx.array_equal(ours(tokens, vectors=vectors * 2).pooled, ours(tokens).pooled)
