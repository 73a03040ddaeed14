"""The compiled extension of MLX for Linux CPUs: whether it is there, fits the MLX that runs, and serves an array.

MLX computes exp, softmax and norms on a CPU one element at a time, on one thread. The extension (native/, compiled when
mlxdiff is installed) adds operations to MLX that use vector instructions and all free cores, and stay lazy.

It is bound to the C++ interface of one version of MLX. With any other MLX, or where it could not be compiled, MLX's own
operations compute everything, and `mlxdiff info` says why.

`MLXDIFF_NATIVE` overrides the choice: `off`, or the name of an instruction set plainer than the processor's best.
"""

from __future__ import annotations

import json
import os
import sys
import sysconfig
import threading
import warnings
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

import mlx.core as mx

from ..computer import blas, cores
from ..errors import BackendError, MlxdiffWarning

if TYPE_CHECKING:
    from types import ModuleType

VARIABLE = "MLXDIFF_NATIVE"
_MODULE = "_native"
# What is called of it.
_FUNCTIONS = (
    *("sgemm", "set_threads", "threads", "instruction_sets", "instruction_set", "use_instruction_set", "has_bf16"),
    *("lacked_memory", "silu", "gelu", "quick_gelu", "geglu", "add_biased", "layer_norm", "group_norm", "attention"),
    *("convolve", "linear", "linear_geglu", "pack", "quantized_linear"),
)
_one_at_a_time = threading.Lock()


class _Unfit(Exception):
    """The extension must not be used; the text says why."""


class _OutdatedError(_Unfit):
    """It was compiled for another version of MLX or of mlxdiff, as after an update."""


def serving(*arrays: mx.array | None) -> Any | None:
    """The extension, if it can compute with these arrays (None stands for one that is left out), else None.

    It takes arrays of fp32; and of bf16, where the processor multiplies that. Raises BackendError if MLXDIFF_NATIVE
    makes no sense.
    """
    if mx.default_device() != mx.cpu:
        return None
    types = {a.dtype for a in arrays if a is not None}
    if types <= {mx.float32}:
        return _loaded()[0]
    extension = _loaded()[0] if types == {mx.bfloat16} else None
    return extension if extension is not None and extension.has_bf16() else None


def is_fast(dtype: mx.Dtype) -> bool:
    """Whether a CPU computes with arrays of that type at its own speed, and not one number at a time."""
    return dtype == mx.float32 or serving(mx.zeros(1, dtype)) is not None


def state() -> str:
    """What there is of the extension, or why it is not used, for people; raises BackendError like `serving`."""
    if mx.default_device() != mx.cpu:
        return "not needed on a GPU"
    return _loaded()[1]


@cache
def _loaded() -> tuple[ModuleType | None, str]:
    with _one_at_a_time:  # `cache` alone calls a function again in a thread that asks meanwhile
        return _loaded_once()


@cache
def _loaded_once() -> tuple[ModuleType | None, str]:
    chosen = os.environ.get(VARIABLE, "").strip()
    if chosen == "off":
        return None, f"off, as {VARIABLE} asks"
    try:
        module = _fitting(Path(__file__).with_name(_MODULE + sysconfig.get_config_var("EXT_SUFFIX")))
    except _Unfit as reason:
        if isinstance(reason, _OutdatedError):  # pictures are slower from now on, and the user should know why
            warnings.warn(MlxdiffWarning(f"The extension for CPUs is off: {reason}."), stacklevel=2)
        return None, f"off: {reason}"
    if chosen:
        _force(module, chosen)
    blas.activate()
    # Before anything computes with it: another thread may be in one of MLX's products, and what each of its threads
    # needs is counted at its beginning.
    told = blas.wished_threads()
    module.set_threads(cores.allowed() if told is None else told, follow_load=told is None)
    # MLX's own products in fp32 too: as fast as OpenBLAS, and the same bits whatever the number of threads.
    blas.use_product(module.sgemm())
    threads = f"{module.threads()} thread{'' if module.threads() == 1 else 's'}"
    return module, f"{module.instruction_set()}, {threads}{', bf16' if module.has_bf16() else ''}"


def _fitting(library: Path) -> ModuleType:
    """The extension, imported and tried; raises _Unfit."""
    if sys.platform != "linux":
        raise _Unfit("it is for Linux")
    try:
        built = json.loads(library.with_suffix(".json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        raise _Unfit("this copy of mlxdiff was not compiled") from None
    if not isinstance(built, dict) or not built.keys() & {"mlx", "error"}:
        raise _Unfit("the file that says what it was compiled for is damaged")
    if "error" in built:
        raise _Unfit(f"it could not be compiled: {built['error']}")
    # An extension that is loaded beside another MLX may crash: this has to be known before.
    version = getattr(mx, "__version__", "unknown")
    if built["mlx"] != version:
        remedy = "install mlxdiff again with pip's --no-build-isolation"
        raise _OutdatedError(f"it was compiled for MLX {built['mlx']}, and this is {version}; {remedy}")
    if mx.cuda.is_available():
        raise _Unfit("it was compiled for MLX's CPU build, and this is the one for CUDA")
    if not library.is_file():
        raise _Unfit(f"{library.name} is missing; install mlxdiff again")
    try:
        module = import_module(f".{_MODULE}", __package__)
        if not all(hasattr(module, name) for name in _FUNCTIONS):
            raise _OutdatedError(
                "it was compiled for an older mlxdiff; install mlxdiff again, or in a checkout run `hatch_build.py`"
            )
        tried = module.silu(mx.array([0.0, 2.0])).tolist()  # a TypeError if it does not share MLX's types
    except (ImportError, TypeError, RuntimeError) as error:
        raise _Unfit(f"it does not work with this MLX ({error})".splitlines()[0]) from None
    if not (tried[0] == 0 and abs(tried[1] - 1.7615942) < 1e-5):
        raise _Unfit("it computes wrongly on this processor")
    return module


def _force(module: Any, instruction_set: str) -> None:
    names = module.instruction_sets()
    if instruction_set not in names:
        raise BackendError(
            f"{VARIABLE} is {instruction_set!r}, which is no instruction set that this processor has.",
            f"Set it to off, {', '.join(names[:-1])}{' or ' if len(names) > 1 else ''}{names[-1]}, or unset it.",
        )
    module.use_instruction_set(instruction_set)
