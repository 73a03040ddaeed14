"""The networks of one checkpoint: each is loaded when it is first needed, and let go where memory is scarce.

Loaded weights are evaluated, so that any thread can compute with them (threads.py), a part at a time, so that the files
they come from never lie in memory as a whole.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, TypeVar

import mlx.core as mx
import mlx.nn as nn
from mlx.utils import tree_flatten

from . import backend, memory
from .families import Checkpoint, Family, base
from .models.backbone import Backbone
from .models.vae import AutoencoderKL
from .threads import Turn

AT_ONCE = 2**28  # bytes of weights that are evaluated together

T = TypeVar("T")


class Networks:
    """The text encoders, the backbone and the VAE of a checkpoint; `turn` guards loading. Reads no weight by itself.

    bits  8 or 4 for the linear layers of the backbone and the text encoders; None leaves them as they are
    """

    def __init__(
        self, checkpoint: Checkpoint, family: Family, *, dtype: mx.Dtype, bits: int | None, turn: Turn
    ) -> None:
        self.checkpoint, self.family, self.dtype, self.bits = checkpoint, family, dtype, bits
        self._turn = turn
        self._held: dict[str, Any] = {}
        self._encoder_bytes: int | None = None
        self._keeps_encoder: bool | None = None

    @property
    def backbone(self) -> Backbone:
        def load() -> tuple[Backbone, list[mx.array]]:
            backbone = base.load_backbone(self.checkpoint, self.dtype, self.bits)
            return backbone, backbone.weights()

        return self._get("backbone", load)

    @property
    def vae(self) -> AutoencoderKL:
        def load() -> tuple[AutoencoderKL, list[mx.array]]:
            vae = base.load_vae(self.family, self.checkpoint, self.dtype)
            return vae, _weights([vae])

        return self._get("vae", load)

    @property
    def encoder(self) -> base.PromptEncoder:
        def load() -> tuple[base.PromptEncoder, list[mx.array]]:
            encoder = self.family.load_encoder(self.checkpoint, self.dtype, self.bits)
            self._encoder_bytes = memory.size_of(*encoder.networks)
            return encoder, _weights(encoder.networks)

        return self._get("encoder", load)

    def load(self) -> None:
        """Loads and checks every weight now, so that a damaged file is found before minutes are spent."""
        _ = self.encoder, self.backbone, self.vae

    def unload(self) -> None:
        """Lets every weight go; what is needed again is loaded again."""
        with self._turn:
            self._held.clear()
            mx.clear_cache()

    def holds(self, name: str) -> bool:
        """Whether `encoder`, `backbone` or `vae` is in memory."""
        return name in self._held

    @property
    def keeps_encoder(self) -> bool:
        """Whether the text encoders stay in memory once prompts are encoded. Loads both, to know their sizes."""
        if self._keeps_encoder is None:
            self._keeps_encoder = memory.keeps_encoders(self._size_of_encoder(), self.backbone.weights_nbytes)
        return self._keeps_encoder

    @property
    def working_bytes(self) -> int:
        """Bytes of the weights that are in memory while the backbone works."""
        return self.backbone.weights_nbytes + (self._size_of_encoder() if self.keeps_encoder else 0)

    def prompts_are_encoded(self) -> None:
        """Lets the text encoders go unless they stay, with buffers of sizes that the loop never asks for."""
        if not self.keeps_encoder:
            self._held.pop("encoder", None)
        mx.clear_cache()

    def make_room(self, decoding: int) -> None:
        """Lets the backbone go where it does not fit beside a decoding of that many bytes."""
        if self.holds("backbone") and not memory.keeps_backbone(self.backbone.weights_nbytes, decoding):
            self._held.pop("backbone", None)

    def _size_of_encoder(self) -> int:
        if self._encoder_bytes is None:
            _ = self.encoder
        assert self._encoder_bytes is not None
        return self._encoder_bytes

    def _get(self, name: str, load: Callable[[], tuple[T, list[mx.array]]]) -> T:
        with self._turn:
            if name not in self._held:
                loaded, weights = load()
                evaluate(weights)
                self._held[name] = loaded
            return self._held[name]


def evaluate(arrays: Iterable[mx.array]) -> None:
    """Evaluates arrays, some AT_ONCE bytes together."""
    waiting, size = [], 0
    for array in arrays:
        waiting.append(array)
        size += array.nbytes
        if size >= AT_ONCE:
            mx.eval(waiting)
            waiting, size = [], 0
    mx.eval(waiting)


def _weights(networks: Iterable[nn.Module]) -> list[mx.array]:
    flat: list[dict[str, mx.array]] = [dict(tree_flatten(network.parameters())) for network in networks]
    return [array for arrays in flat for array in arrays.values()]


def dtype_of(wanted: mx.Dtype | str | None) -> mx.Dtype:
    """The number format of the networks: fp16 on a GPU and fp32 on a CPU, unless another is asked for."""
    return backend.default_dtype() if wanted is None else backend.parse_dtype(wanted)
