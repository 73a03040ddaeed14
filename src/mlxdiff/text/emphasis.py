"""What weights do to a text encoder's states, as each program does it. Lazy: nothing here is evaluated.

states are (N, T, C), one row a chunk of T tokens; weights (N, T). Pooled states are never weighted.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import mlx.core as mx

from .chunking.chunk import Chunk

Emphasis = Callable[[mx.array, mx.array], mx.array]


def original(states: mx.array, weights: mx.array) -> mx.array:
    """A1111's "Original": each token times its weight, then all times the factor that restores the mean.

    The mean is over the whole array. A1111 calls it once for each place of a chunk and encoder, with all that one
    prompt says at different steps as the rows: call it so for its pictures. Weights of 1 alone change no bit.
    """
    weighted = states * weights[..., None].astype(states.dtype)
    restored = weighted * (mx.mean(states) / mx.mean(weighted))
    return mx.where(mx.all(weights == 1), states, restored)


def no_norm(states: mx.array, weights: mx.array) -> mx.array:
    """A1111's "No norm": each token times its weight."""
    return states * weights[..., None].astype(states.dtype)


def ignore(states: mx.array, weights: mx.array) -> mx.array:
    """A1111's "Ignore": weights are read and do nothing."""
    del weights
    return states


A1111_EMPHASES: dict[str, Emphasis] = {"original": original, "no norm": no_norm, "ignore": ignore}


def from_empty(states: mx.array, empty: mx.array, weights: mx.array) -> mx.array:
    """ComfyUI's and compel's: empty + (state - empty) * weight, token by token; a weight of 1 changes no bit.

    empty  (T, C): the states of an empty prompt in the same encoder
    """
    scale = weights[..., None].astype(states.dtype)
    return mx.where(scale == 1, states, empty + (states - empty) * scale)


def summed(encodings: Sequence[mx.array], weights: Sequence[float], empty: mx.array) -> mx.array:
    """The sum of encodings (T_i, C) times their weights; shorter ones are filled up with `empty` (T, C).

    compel's blends, with weights that add up to 1 unless it says no_normalize, and its shares of a prompt.
    """
    length = max(encoding.shape[0] for encoding in encodings)
    total = mx.zeros((length, empty.shape[1]), dtype=empty.dtype)
    for encoding, weight in zip(encodings, weights, strict=True):
        total = total + filled(encoding, length, empty) * weight
    return total


def strengthened(encoding: mx.array, weight: float, empty: mx.array) -> mx.array:
    """A whole encoding (T, C) away from that of the empty prompt: a part of compel's .and()."""
    if weight == 1:
        return encoding
    base = filled(empty, encoding.shape[0], empty)
    return base + (encoding - base) * weight


def filled(encoding: mx.array, length: int, empty: mx.array) -> mx.array:
    """An encoding (T, C) followed by as many empty prompts as make `length` tokens."""
    copies = -(-(length - encoding.shape[0]) // empty.shape[0])
    return encoding if copies <= 0 else mx.concatenate([encoding, *[empty] * copies])


def repeated(encoding: mx.array, length: int) -> mx.array:
    """An encoding (T, C) whose last vector is repeated up to `length`: A1111's filling of sub-prompts (AND)."""
    short = length - encoding.shape[0]
    return encoding if short <= 0 else mx.concatenate([encoding, mx.repeat(encoding[-1:], short, axis=0)])


def ids_of(chunks: Sequence[Chunk]) -> mx.array:
    """(N, T) int32."""
    return mx.array([chunk.ids for chunk in chunks], dtype=mx.int32)


def weights_of(chunks: Sequence[Chunk]) -> mx.array:
    """(N, T) fp32."""
    return mx.array([chunk.weights for chunk in chunks], dtype=mx.float32)


def hidden_of(chunks: Sequence[Chunk]) -> mx.array | None:
    """(N, T) bool, true where nothing may attend to a token; None where that is nowhere."""
    if not any(chunk.hidden for chunk in chunks):
        return None
    return mx.array([[place in chunk.hidden for place in range(len(chunk.ids))] for chunk in chunks])
