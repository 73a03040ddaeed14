"""The networks of one checkpoint: each is loaded when it is first needed, and let go where memory is scarce.

A network is mapped first: its files are checked, and its size is known. Its weights are evaluated when it is used, some
at a time, so that the files never lie in memory as a whole; then any thread can compute with them (threads.py).
"""

from __future__ import annotations

import threading
import warnings
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar

import mlx.core as mx
import mlx.nn as nn
from mlx.utils import tree_flatten

from . import backend, memory
from .adapting import Adapting, Key, Reload, left_of
from .errors import CheckpointError, MlxdiffWarning
from .families import Checkpoint, Family, base
from .loras import Adapters
from .models.autoencoders import Autoencoder
from .models.backbone import Backbone
from .models.layers import unpacked_name
from .models.unet_backbone import UNetBackbone
from .parts import BACKBONE
from .text import Tokenizer
from .threads import Turn
from .weight_changes import Survival

AT_ONCE = 2**28  # bytes of weights that are evaluated together
ENOUGH = 0.9  # of the correlation of a change that was merged into quantized layers: below it a warning says so

T = TypeVar("T")


@dataclass
class Held:
    """A network in memory, its weights, and the thread that mapped them: until they are evaluated it alone can.

    name     `encoder`, `backbone` or `vae`
    modules  that hold the weights
    reloads  what changes the adapters of each component
    key      which adapters it has; None where that is unknown
    """

    name: str
    network: Any
    modules: tuple[nn.Module, ...]
    thread: int
    reloads: Mapping[str, Reload] = field(default_factory=dict)
    evaluated: bool = False
    key: Key | None = ()
    weights: list[mx.array] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.weights = _weights(self.modules)

    @property
    def nbytes(self) -> int:
        return sum(array.nbytes for array in self.weights)


Load = Callable[[], tuple[Any, Iterable[nn.Module]]]
"""Maps a network: what is used of it, and the modules that hold its weights."""


class Networks:
    """The text encoders, the backbone and the VAE of a checkpoint; `turn` guards loading. Reads no weight by itself.

    bits  8 or 4 for the linear layers of the backbone and the text encoders; None leaves them as they are
    """

    def __init__(
        self, checkpoint: Checkpoint, family: Family, *, dtype: mx.Dtype, bits: int | None, turn: Turn
    ) -> None:
        self.checkpoint, self.family, self.dtype, self.bits = checkpoint, family, dtype, bits
        self.adapting = Adapting(checkpoint, bits)
        self._turn = turn
        self._held: dict[str, Held] = {}
        self._sizes: dict[str, int] = {}
        self._loaders: dict[str, Load] = {}
        self._tokenizers: tuple[Tokenizer, ...] | None = None

    @property
    def encoder(self) -> base.PromptEncoder:
        """The text encoders, ready for use, with the adapters that they have."""
        return self._use("encoder")

    @property
    def tokenizers(self) -> tuple[Tokenizer, ...]:
        """The text encoders' tokenizers; no weight is read."""
        if self._tokenizers is None:
            self._tokenizers = self.family.tokenizers(self.checkpoint)
        return self._tokenizers

    @property
    def backbone(self) -> Backbone:
        """The backbone, ready for use, with the adapters that it has."""
        return self._use("backbone")

    @property
    def vae(self) -> Autoencoder:
        """The VAE, ready for use."""
        return self._use("vae")

    def adapted(self, name: str, adapters: Adapters) -> Held:
        """`encoder` or `backbone`, ready for use, with these adapters and no others."""
        with self._turn:
            held = self._map(name)
            self._put_on(held, adapters)
            return held

    def put_on(self, held: Held, adapters: Adapters) -> None:
        """Gives a network that `adapted` gave these adapters and no others."""
        with self._turn:
            self._put_on(held, adapters)

    def stepping(self, steps: Iterator[T], held: Held, adapters: Adapters) -> Iterator[T]:
        """The steps, each computed with these adapters, whatever other runs put on between them."""
        while True:
            with self._turn:
                self._put_on(held, adapters)
                try:
                    step = next(steps)
                except StopIteration:
                    return
            yield step

    def load(self) -> None:
        """Maps and checks every weight now, so that a damaged file is found before minutes are spent."""
        for name in _PARTS:
            self._map(name)

    def unload(self) -> None:
        """Lets every weight go; what is needed again is loaded again."""
        with self._turn:
            self._held.clear()
            mx.clear_cache()

    def holds(self, name: str) -> bool:
        """Whether `encoder`, `backbone` or `vae` is mapped or in memory."""
        return name in self._held

    def map_beside(self, name: str, load: Load) -> None:
        """Maps a network that a request names besides the checkpoint's, unless it is there; `name` is its own."""
        self._map(name, load)

    def beside(self, name: str, source: str) -> Any:
        """A network that `map_beside` mapped, ready for use; `source` is what people call it.

        Raises CheckpointError where its weights hold NaN or infinity.
        """
        with self._turn:
            held = self._map(name)
            if not held.evaluated:
                evaluate(held.weights)
                check_finite(held.modules, source)
                held.evaluated = True
            return held.network

    def keep_beside(self, names: Collection[str]) -> None:
        """Lets other networks besides the checkpoint's go, where memory is scarce."""
        others = [name for name in self._held if name not in _PARTS and name not in names]
        if not memory.keeps_encoders(self._beside_bytes, self._size("backbone")):
            for name in others:
                self._held.pop(name)
        self._loaders = {name: load for name, load in self._loaders.items() if name in names or name in self._held}

    @property
    def _beside_bytes(self) -> int:
        return sum(held.nbytes for name, held in self._held.items() if name not in _PARTS)

    @property
    def keeps_encoder(self) -> bool:
        """Whether the text encoders stay in memory once prompts are encoded. Maps both, to know their sizes."""
        return memory.keeps_encoders(self._size("encoder"), self._size("backbone") + self._beside_bytes)

    @property
    def working_bytes(self) -> int:
        """Bytes of the weights that are in memory while the backbone works."""
        working = self._size("backbone") + self._beside_bytes
        return working + (self._size("encoder") if self.keeps_encoder else 0)

    def prompts_are_encoded(self) -> None:
        """Lets the text encoders go unless they stay, with buffers of sizes that the loop never asks for."""
        if not self.keeps_encoder:
            self._held.pop("encoder", None)
        mx.clear_cache()

    def make_room(self, decoding: int) -> None:
        """Lets the backbone go where it does not fit beside a decoding of that many bytes; first what ran with it.

        Before either go the buffers of the backbone's recorded calls.
        """
        self._forget_recordings(decoding)
        if self._beside_bytes and not memory.keeps_backbone(self._size("backbone") + self._beside_bytes, decoding):
            self._held = {name: held for name, held in self._held.items() if name in _PARTS}
        if self.holds("backbone") and not memory.keeps_backbone(self._size("backbone"), decoding):
            self._held.pop("backbone", None)

    def _forget_recordings(self, decoding: int) -> None:
        held = self._held.get("backbone")
        if held is None or not isinstance(held.network, UNetBackbone):
            return
        together = held.nbytes + self._beside_bytes + held.network.recorded_nbytes
        if held.network.recorded_nbytes and not memory.keeps_backbone(together, decoding):
            held.network.forget_recordings()

    def let_go(self, name: str) -> None:
        """Lets a network go; it is loaded again when it is needed again."""
        with self._turn:
            if self._held.pop(name, None) is not None:
                mx.clear_cache()

    def _size(self, name: str) -> int:
        if name not in self._sizes:
            self._sizes[name] = self._map(name).nbytes
        return self._sizes[name]

    def _use(self, name: str) -> Any:
        with self._turn:
            held = self._map(name)
            _evaluate(held)
            return held.network

    def _put_on(self, held: Held, adapters: Adapters) -> None:
        key = self.adapting.key(held.name, adapters)
        survival: Survival = {}
        if key != held.key:
            held.key, held.evaluated, held.weights = None, False, []
            with backend.callers_randomness():
                survival = self.adapting.put_on(held.name, adapters, held.reloads)
            held.key, held.weights, held.thread = key, _weights(held.modules), threading.get_ident()
        for value in survival.values():  # one by one: each takes a layer in fp32
            mx.eval(value)
        _evaluate(held)
        if survival:
            self._say_what_is_left(left_of(survival))

    def _say_what_is_left(self, left: list[float]) -> None:
        mean = sum(left) / len(left)
        layers = f"{len(left)} layer{'s' if len(left) > 1 else ''} of {self.bits} bits"
        text = f"Merged into {layers}, the LoRA is there with a correlation of {mean:.2f} (lowest {min(left):.2f})."
        more = " Much of it is lost: leave quantize out, or use 8 bits." if mean < ENOUGH else ""
        warnings.warn(MlxdiffWarning(text + more), stacklevel=2)

    def _map(self, name: str, load: Load | None = None) -> Held:
        with self._turn:
            held = self._held.get(name)
            if held is None or not (held.evaluated or held.thread == threading.get_ident()) or held.key is None:
                with backend.callers_randomness():
                    held = self._held[name] = self._mapped(name, load)
            if load is not None:
                self._loaders[name] = load
            return held

    def _mapped(self, name: str, load: Load | None) -> Held:
        if name in _PARTS:
            return _PARTS[name](self)
        network, modules = (self._loaders[name] if load is None else load)()
        return Held(name, network, tuple(modules), threading.get_ident())

    def _map_encoder(self) -> Held:
        encoder = self.family.load_encoder(self.checkpoint, self.dtype, self.bits)
        self._tokenizers = encoder.tokenizers
        reloads = {name: loaded.reload for name, loaded in encoder.loaded.items()}
        return Held("encoder", encoder, encoder.networks, threading.get_ident(), reloads)

    def _map_backbone(self) -> Held:
        backbone = base.load_backbone(self.checkpoint, self.dtype, self.bits)
        return Held("backbone", backbone, (backbone.network,), threading.get_ident(), {BACKBONE: backbone.reload})

    def _map_vae(self) -> Held:
        vae = base.load_vae(self.family, self.checkpoint, self.dtype)
        return Held("vae", vae, (vae,), threading.get_ident())


_PARTS: dict[str, Callable[[Networks], Held]] = {
    "encoder": Networks._map_encoder,
    "backbone": Networks._map_backbone,
    "vae": Networks._map_vae,
}


def _evaluate(held: Held) -> None:
    if not held.evaluated:
        evaluate(held.weights)
        held.evaluated = True


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


def check_finite(modules: Iterable[nn.Module], source: str) -> None:
    """Raises CheckpointError where evaluated weights hold NaN or infinity, in fp16 also what is too large for it."""
    weights = (pair for module in modules for pair in tree_flatten(module.parameters()))
    finite = {path: mx.isfinite(array).all() for path, array in weights if isinstance(array, mx.array)}
    mx.eval(finite)
    bad = next((path for path, every in finite.items() if not every.item()), None)
    if bad is not None:
        raise CheckpointError(f"{source} holds NaN or infinity in {unpacked_name(bad)!r}.", "Download it again.")


def _weights(networks: Iterable[nn.Module]) -> list[mx.array]:
    flat: list[dict[str, mx.array]] = [dict(tree_flatten(network.parameters())) for network in networks]
    return [array for arrays in flat for array in arrays.values()]


def dtype_of(wanted: mx.Dtype | str | None) -> mx.Dtype:
    """The number format of the networks: fp16 on a GPU and fp32 on a CPU, unless another is asked for."""
    return backend.default_dtype() if wanted is None else backend.parse_dtype(wanted)
