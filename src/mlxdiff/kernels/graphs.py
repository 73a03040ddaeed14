"""Calls of a network on an NVIDIA GPU as CUDA graphs: recorded once a shape, then launched as a whole.

A UNet call is hundreds of kernels, and with few pictures the CPU needs longer to launch them than the GPU to run them.
native/graphs/ captures what MLX launches. It is bound to one version of MLX; without it, and wherever recording fails,
MLX launches kernels one by one as ever, with the same result.

`MLXDIFF_GRAPHS=off` does without.
"""

from __future__ import annotations

import json
import os
import sysconfig
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache, partial
from importlib import import_module
from pathlib import Path
from typing import Any

import mlx.core as mx

from ..computer import elf

VARIABLE = "MLXDIFF_GRAPHS"
MOST = 4  # recordings of one function
_MODULE = "_graphs"
# CommandEncoder::add_graph_node(CUgraph_st*, std::string const&, bool)
_ADD_GRAPH_NODE = (
    "_ZN3mlx4core2cu14CommandEncoder14add_graph_nodeEP10CUgraph_st"
    "RKNSt7__cxx1112basic_stringIcSt11char_traitsIcESaIcEEEb"
)


_most_bytes = 2**30


def allow(most_bytes: int) -> None:
    """Sets how many bytes the recordings of a function may hold, for functions that are compiled from now on."""
    global _most_bytes
    _most_bytes = most_bytes


def state() -> str:
    """Whether calls are replayed as graphs, or why not, for people."""
    return _loaded()[1]


def compiled(function: Callable[..., Any]) -> Callable[..., Any]:
    """`mx.compile` of a pure function, and on NVIDIA GPUs recorded at its second call with arrays of the same shapes.

    Its arguments are arrays, in lists or tuples or not, and constants; it gives an array or a list of them. Arrays that
    it reads besides must never change.
    """
    fast = mx.compile(function)
    return fast if _loaded()[0] is None else Replayed(fast, _most_bytes)


def held(function: Callable[..., Any]) -> int:
    """Bytes that the recordings of a compiled function hold, 0 for any other function."""
    return function.nbytes if isinstance(function, Replayed) else 0


def forget(function: Callable[..., Any]) -> None:
    """Lets the recordings of a compiled function go; its calls are recorded again."""
    if isinstance(function, Replayed):
        function.forget()


@dataclass(frozen=True)
class _Recorded:
    recording: Any
    gives_list: bool


class Replayed:
    """A compiled function whose calls are recorded, as long as the recordings hold `most_bytes` at most.

    A new one takes the place of older ones where there is no room for both; those are not made again, so that calls
    that take turns are not recorded each time. `reasons` is why recordings failed, newest last.
    """

    def __init__(self, function: Callable[..., Any], most_bytes: int) -> None:
        self._function, self._most_bytes = function, most_bytes
        self._recordings: dict[tuple[Any, ...], _Recorded | None] = {}  # None after the first call
        self._unfit: set[tuple[Any, ...]] = set()
        self._lock = threading.Lock()
        self.reasons: list[str] = []

    def __call__(self, *arguments: Any) -> Any:
        arrays, signature = _flat(arguments)
        module = _loaded()[0]
        assert module is not None
        key = module.stream(), *signature  # each thread has its own
        if key in self._unfit:
            return self._function(*arguments)
        if key not in self._recordings:
            self._remember(key, None)
            return self._function(*arguments)
        recorded = self._recordings.get(key)
        if recorded is None or not recorded.recording.takes(arrays):  # MLX moves what is read on the CPU
            recorded = None
            self._remember(key, None)  # what an older one holds is free before a new one is made
            recorded = self._record(module, arguments, arrays)
            if recorded is None:
                self._unfit.add(key)
                return self._function(*arguments)
            self._remember(key, recorded)
        outputs = recorded.recording.replay(arrays)
        return outputs if recorded.gives_list else outputs[0]

    @property
    def nbytes(self) -> int:
        """Bytes of the buffers that the recordings hold."""
        return sum(recorded.recording.nbytes for recorded in list(self._recordings.values()) if recorded is not None)

    def forget(self) -> None:
        """Lets the recordings go."""
        with self._lock:
            self._recordings = dict.fromkeys(self._recordings)

    def _remember(self, key: tuple[Any, ...], recorded: _Recorded | None) -> None:
        with self._lock:
            self._recordings.pop(key, None)
            while len(self._recordings) >= MOST:
                del self._recordings[next(iter(self._recordings))]
            self._recordings[key] = recorded

    def _give_up_oldest(self) -> bool:
        """Lets the oldest recording go for good; whether there was one."""
        with self._lock:
            oldest = next((key for key, recorded in self._recordings.items() if recorded is not None), None)
            if oldest is None:
                return False
            del self._recordings[oldest]
            self._unfit.add(oldest)
            return True

    def _record(self, module: Any, arguments: tuple[Any, ...], arrays: list[mx.array]) -> _Recorded | None:
        """The recording of a call, None where it cannot be made."""
        while True:
            room, recording = self._most_bytes - self.nbytes, None
            try:
                recording = module.recording(arrays)
                gives_list = self._pass_on(arguments, recording, recording.rehearse)
                self._pass_on(arguments, recording, partial(recording.record, most=room))
            except (RuntimeError, ValueError, MemoryError) as error:  # whatever C++ throws
                if recording is not None and recording.nbytes > room and self._give_up_oldest():
                    continue
                self.reasons.append(str(error))
                return None
            return _Recorded(recording, gives_list)

    def _pass_on(self, arguments: tuple[Any, ...], recording: Any, take: Callable[[list[mx.array]], None]) -> bool:
        """Gives `take` what the function makes of the recording's inputs; whether that is a list."""
        outputs = self._function(*_filled(arguments, iter(recording.inputs)))
        alone = isinstance(outputs, mx.array)
        take([outputs] if alone else list(outputs))
        return not alone


def _collect(argument: Any, arrays: list[mx.array], signature: list[Any]) -> None:
    """Appends the arrays in an argument, in order; and to `signature` how they are nested, and constants.

    Raises TypeError for what is none of these: two of them could not be told apart.
    """
    if isinstance(argument, mx.array):
        arrays.append(argument)
        signature.append(mx.array)
    elif isinstance(argument, list | tuple):
        signature.append(len(argument))
        for item in argument:
            _collect(item, arrays, signature)
    elif isinstance(argument, int | float | str | None):
        signature += (type(argument), argument)
    else:
        raise TypeError(f"A recorded call takes arrays, numbers and texts, and this is a {type(argument).__name__}.")


def _flat(arguments: Sequence[Any]) -> tuple[list[mx.array], tuple[Any, ...]]:
    """All arrays, and what tells calls apart quickly: how arguments are nested, constants, and of each argument's first
    array shape and type. A recording compares the others.
    """
    arrays: list[mx.array] = []
    signature: list[Any] = []
    for argument in arguments:
        before = len(arrays)
        _collect(argument, arrays, signature)
        if len(arrays) > before:
            signature += (arrays[before].shape, arrays[before].dtype)
    return arrays, tuple(signature)


def _filled(arguments: Any, arrays: Iterator[mx.array]) -> Any:
    """The same arguments with other arrays."""
    if isinstance(arguments, mx.array):
        return next(arrays)
    if isinstance(arguments, list | tuple):
        filled = [_filled(argument, arrays) for argument in arguments]
        if isinstance(arguments, tuple) and hasattr(arguments, "_fields"):
            return type(arguments)(*filled)
        return filled if isinstance(arguments, list) else tuple(filled)
    return arguments


@cache
def _loaded() -> tuple[Any | None, str]:
    if os.environ.get(VARIABLE, "").strip() == "off":
        return None, f"off, as {VARIABLE} asks"
    if not mx.cuda.is_available():
        return None, "for NVIDIA GPUs only"
    if os.environ.get("MLX_USE_CUDA_GRAPHS") != "0":
        return None, "off: MLX_USE_CUDA_GRAPHS makes MLX collect graphs of its own"
    library = Path(__file__).with_name(_MODULE + sysconfig.get_config_var("EXT_SUFFIX"))
    try:
        built = json.loads(library.with_suffix(".json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        built = None
    if not isinstance(built, dict) or not built.keys() & {"mlx", "error"}:
        return None, "off: this copy of mlxdiff was not compiled"
    if "error" in built:
        return None, f"off: it could not be compiled: {built['error']}"
    version = getattr(mx, "__version__", "unknown")
    if built["mlx"] != version:  # it could crash with another MLX
        return None, f"off: compiled for MLX {built['mlx']}, and this is {version}"
    try:
        module = import_module(f".{_MODULE}", __package__)
    except ImportError as error:
        return None, f"off: it does not work with this MLX ({error})".splitlines()[0]
    if not module.available():
        return None, "off: MLX's CUDA backend or its driver lacks what it needs"
    try:
        _join_graphs(module)
    except OSError as error:
        return None, f"off: {error}"
    return module, "on"


def _join_graphs(module: Any) -> None:
    """Lets graphs that MLX would launch while a call is recorded become parts of the recording; raises OSError."""
    library = elf.loaded("libmlx.so") if elf.supported() else None
    slots = [] if library is None else elf.own_slots(library, _ADD_GRAPH_NODE)
    if not slots:
        raise OSError("libmlx calls cuDNN's graphs in a way that is not known")
    address: int = module.add_graph_node()
    elf.redirect({slot: address for slot in slots})  # noqa: C420
