"""Prompts encoded twice: by mlxdiff, and by transformers' encoder with each program's arithmetic in numpy."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import mlx.core as mx
import numpy as np
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
States = Callable[..., np.ndarray]


def encoders() -> tuple[CLIPTextModel, Any]:
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


def encoder_of(clip: CLIPTextModel) -> Encoder:
    def states(chunks: Sequence[Chunk]) -> tuple[mx.array, mx.array]:
        vectors = token_vectors(chunks, clip.embeddings.token_embedding, VECTORS)
        out = clip(emphasis.ids_of(chunks), vectors=vectors, hidden=emphasis.hidden_of(chunks))
        return out.last_hidden_state, out.pooled

    return Encoder(TOKENIZER, states, Names({"myembed": 3}, TOKENIZER))


def torch_states_of(model: Any) -> States:
    """Ids without start and end -> (77, C); `hidden` are places that nothing attends to."""

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


@dataclass(frozen=True)
class Case:
    """A prompt in a syntax, and its contexts of all stretches of a run as the program computes them."""

    syntax: str
    prompt: str
    steps: int
    expected: Callable[[States], Sequence[np.ndarray]]


def _kept_mean(z: np.ndarray, w: np.ndarray) -> np.ndarray:
    return z * w * (z.mean() / (z * w).mean())


def _shared_mean(states: States) -> np.ndarray:
    z = np.stack([states(ids("a") + ids(word) + ids("cat")) for word in ("red", "blue")])
    return _kept_mean(z, np.stack([weighed(("a", 1), ("red", 1.5)), weighed(("a", 1), ("blue", 1))]))


def _repeated(states: States) -> np.ndarray:
    """[(a:1.5)|b] over three steps says a, b, a."""
    z = np.stack([states(ids(word)) for word in "aba"])
    return _kept_mean(z, np.stack([weighed(("a", 1.5)), weighed(("b", 1)), weighed(("a", 1.5))]))


def _chunks(states: States) -> list[np.ndarray]:
    return [np.concatenate([states(ids("a")), _kept_mean(states(ids("b")), weighed(("b", 1.4)))])]


def _from_empty(states: States) -> list[np.ndarray]:
    z, empty = states(ids("a red cat")), states([])
    return [empty + (z - empty) * weighed(("a", 1), ("red", 1.5), ("cat", 0.3))]


def _hidden(states: States) -> list[np.ndarray]:
    w, empty = weighed(("a", 1), ("red cat", 0.4), ("b", 1.1**2)), states([])
    whole, without = (empty + (states(ids("a red cat b"), hidden) - empty) * w for hidden in ((), (2, 3)))
    share = math.tan(0.6 * math.pi / 2)
    return [((whole + without * share) / (1 + share)).astype(np.float32)]


def _blend(states: States) -> list[np.ndarray]:
    return [states(ids("a")) / 4 + states(ids("b")) * 3 / 4]


def _both(states: States) -> list[np.ndarray]:
    empty = states([])
    return [np.concatenate([states(ids("a")), empty + (states(ids("b")) - empty) * 0.5])]


CASES = (
    Case("plain", "a (red:1.2) cat", 9, lambda states: [states(ids("a (red:1.2) cat"))]),
    Case("a1111", "a red apple on a table", 9, lambda states: [states(ids("a red apple on a table"))]),
    Case("a1111", "a [(red:1.5):blue:0.5] cat", 10, _shared_mean),
    Case("a1111", "[(a:1.5)|b]", 3, _repeated),
    Case("a1111", "a BREAK (b:1.4)", 3, _chunks),
    Case("comfyui", "a red apple on a table", 9, lambda states: [states(ids("a red apple on a table"))]),
    Case("comfyui", "a (red:1.5) (cat:0.3)", 3, _from_empty),
    Case("compel", "a red apple on a table", 9, lambda states: [states(ids("a red apple on a table"))]),
    Case("compel", "a (red cat)0.4 b++", 3, _hidden),
    Case("compel", '("a", "b").blend(1, 3)', 3, _blend),
    Case("compel", '("a", "b").and(1, 0.5)', 3, _both),
)

# Against compel itself, where it is installed.
COMPEL = (
    "a (big cat)0.5 sits-- on (the)1.4 mat",
    '("a cat", "b-- dog").and(1, .5)',
    "a cat sits. " * 30,
    "(a cat, )0.5" * 40 + " end",
    '("a cat", "' + "dog " * 100 + '").blend(.3, .7)',
    "x " * 70 + "(one two three four five six seven)0.5 eight",
)
_OTHERS = {"plain": (plain, encode_plain), "comfyui": (comfyui, encode_comfyui), "compel": (compel, encode_compel)}


def contexts(syntax: str, prompt: str, encoder: Encoder, steps: int = 3) -> list[mx.array]:
    """mlxdiff's: one (S, C) for each stretch of a run of so many steps."""
    if syntax == "a1111":
        return [found.context for found in encode_a1111(a1111.parse(prompt, Run(steps)).parts[0], [encoder])]
    module, encode = _OTHERS[syntax]
    found = [encode(entry, [encoder]) for entry in module.parse(prompt, Run(steps)).parts[0].entries]
    return [(one[0] if isinstance(one, tuple) else one).context for one in found]


def relative(ours: Sequence[mx.array], theirs: Sequence[np.ndarray]) -> float:
    """The largest difference, over the reference's largest magnitude."""
    assert len(ours) == len(theirs)
    pairs = [(np.array(a), b) for a, b in zip(ours, theirs, strict=True)]
    assert all(a.shape == b.shape for a, b in pairs), [(a.shape, b.shape) for a, b in pairs]
    return max(float(np.abs(a - b).max() / np.abs(b).max()) for a, b in pairs)
