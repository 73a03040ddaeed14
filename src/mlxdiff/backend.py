"""What MLX runs on here: whether it is there, its device, and the number format and memory that suit it.

Imports no MLX until it is asked. Which BLAS a Linux CPU gets is the business of computer/blas.py.
"""

from __future__ import annotations

import os
import platform
import re
import sys
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from functools import cache
from typing import TYPE_CHECKING, Any, cast

from . import __version__
from .computer import blas, ram
from .errors import BackendError, RequestError, out_of_memory, says_out_of_memory

if TYPE_CHECKING:
    from types import ModuleType

    import mlx.core as mx

OLDEST_MLX = (0, 32)  # older ones gave wrong results without an error: large quantized matmuls, lack of memory
GIB = 2**30
SMALL_CACHE = GIB // 4
RECORDED_OF_MEMORY = 4  # the part of the memory that recorded calls of a function may take (kernels/graphs.py)

# Short names first, as the command line offers them, then what else people write.
DTYPES = {"fp16": "float16", "bf16": "bfloat16", "fp32": "float32"}
_ALIASES = {"half": "fp16", "float": "fp32", "full": "fp32"} | {name: short for short, name in DTYPES.items()}

_INSTALL_LINUX = "Run: pip install 'mlxdiff[cpu]', or with an NVIDIA GPU 'mlxdiff[cuda12]' or 'mlxdiff[cuda13]'."
_INSTALL_MAC = "Run: pip install --force-reinstall mlx, on a Mac with Apple silicon and macOS 14 or newer."
# The wheels of the backends write the same files, so that removing one breaks another.
_USE_CPU = "pip uninstall mlx mlx-cuda-12 mlx-cuda-13, then pip install 'mlxdiff[cpu]'"
_REINSTALL = "Start afresh: pip uninstall mlx mlx-cpu mlx-cuda-12 mlx-cuda-13."


def require_mlx() -> ModuleType:
    """`mlx.core`, imported and fit for use; raises BackendError with what to install."""
    try:
        import mlx.core as mx
    except (ImportError, OSError) as error:
        raise _explain(error) from error
    version = mlx_version(mx)
    if tuple(int(number) for number in re.findall(r"\d+", version)[:2]) < OLDEST_MLX:
        oldest = ".".join(str(number) for number in OLDEST_MLX)
        raise BackendError(
            f"This is MLX {version}, and mlxdiff needs {oldest} or newer.",
            f"Run: pip install --upgrade mlx. {_INSTALL_LINUX}" if sys.platform == "linux" else _INSTALL_MAC,
        )
    if mx.cuda.is_available() and mx.device_count(mx.gpu) == 0:
        raise BackendError(
            "MLX's CUDA build finds no NVIDIA GPU.",
            f"Check nvidia-smi and CUDA_VISIBLE_DEVICES, or use the CPU: {_USE_CPU}.",
        )
    return mx


def prepare() -> None:
    """Sets this process up to compute (see `_prepare`). Raises BackendError in one forked from a process that was."""
    if _prepare() != os.getpid():
        raise BackendError(
            "This process was forked from one that had opened a model, and MLX does not survive a fork.",
            "Start it with multiprocessing's spawn method.",
        )


@cache
def _prepare() -> int:
    """Sets this process up to compute, once: all that mlxdiff changes in it, when the first model is opened.

    - the BLAS that MLX uses on a Linux CPU, and its number of threads (computer/blas.py, computer/cores.py)
    - MLX_USE_CUDA_GRAPHS=0 and MLX_ENABLE_TF32=0 in the environment, unless they are set
    - how many bytes of freed buffers MLX keeps (limit_cache)
    """
    # MLX gathers kernels in CUDA graphs, and making those takes the host longer than launching kernels one by one: a
    # UNet call took 1.2 to 2 times as long. MLX reads this when it first uses a GPU.
    os.environ.setdefault("MLX_USE_CUDA_GRAPHS", "0")
    # Else products and convolutions in fp32 have the 10 bits of TF32 behind the point on NVIDIA GPUs, and M5 too. MLX
    # reads this when it first computes one.
    os.environ.setdefault("MLX_ENABLE_TF32", "0")
    require_mlx()
    blas.activate()
    limit_cache()
    if is_gpu():
        from .kernels import graphs

        graphs.allow(memory_size() // RECORDED_OF_MEMORY)
    return os.getpid()


_thread = threading.local()


def enter_thread() -> None:
    """Makes the calling thread fit for MLX on NVIDIA GPUs, once, before it computes. Nothing elsewhere.

    - With several GPUs importing MLX 0.32 leaves the last one current, and an array of NumPy's that gets a buffer
      which another thread has let go cannot be copied ("cudaMemcpy failed: invalid argument"). An operation on the
      first GPU, which MLX computes on, makes that current.
    - A thread that ends with streams of MLX's ends the process with SIGABRT when that ends.
    """
    mx = require_mlx()
    if not mx.cuda.is_available() or hasattr(_thread, "streams"):
        return
    if mx.device_count(mx.gpu) > 1:
        mx.eval(mx.zeros(1, stream=mx.gpu))
    _thread.streams = _Streams() if threading.current_thread() is not threading.main_thread() else None


class _Streams:
    """MLX's streams of the thread that has it as a local: they go with it."""

    def __del__(self) -> None:
        with suppress(Exception):  # at the interpreter's end MLX may be gone
            require_mlx().clear_streams()


def mlx_version(core: ModuleType) -> str:
    return str(getattr(core, "__version__", "0"))


def _explain(error: ImportError | OSError) -> BackendError:
    """Why `import mlx.core` failed, as far as the words of the import system and the dynamic loader tell."""
    text = str(error)
    if sys.platform == "win32":
        return BackendError("MLX does not run on Windows.", "Use Linux in WSL 2, and install mlxdiff there.")
    install = _INSTALL_MAC if sys.platform == "darwin" else _INSTALL_LINUX
    if isinstance(error, ModuleNotFoundError) and error.name == "mlx":
        return BackendError("MLX is not installed.", install)
    if re.search(r"libmlx\.(so|dylib)\b.*(No such file|not found|no such file)", text):
        return BackendError("MLX is installed without a backend (libmlx).", install)
    if "libcuda.so" in text:
        return BackendError(
            "MLX's CUDA build needs NVIDIA's driver, and libcuda.so.1 is not there.",
            f"Install the driver, or use the CPU: {_USE_CPU}.",
        )
    if re.search(r"\bcuda|CUDA|libcud|libnccl|libnvrtc|libcublas|libcufft|libcusolver", text):
        return BackendError(
            f"MLX's CUDA build does not start: {text}.",
            f"Check that nvidia-smi shows a GPU, reinstall with pip install --force-reinstall 'mlxdiff[cuda12]', or "
            f"use the CPU: {_USE_CPU}.",
        )
    return BackendError(f"MLX cannot be loaded: {text}.", f"{_REINSTALL} {install}")


def is_gpu() -> bool:
    """Whether MLX computes on a GPU (Metal or CUDA) by default."""
    mx = require_mlx()
    return mx.default_device().type == mx.gpu


def backend_name() -> str:
    """Metal, CUDA or CPU."""
    mx = require_mlx()
    if not is_gpu():
        return "CPU"
    return "CUDA" if mx.cuda.is_available() else "Metal"


def device_name() -> str:
    """What the chip calls itself, such as "Apple M2 Max" or "NVIDIA H100"."""
    mx = require_mlx()
    name = mx.device_info(mx.default_device()).get("device_name", "")
    return str(name) if name else platform.machine()


def tf32() -> bool:
    """Whether products and convolutions in fp32 may be rounded to TF32: on a GPU, where MLX_ENABLE_TF32 asks for it.

    NVIDIA GPUs from 2020 on and Apple's M5 can.
    """
    from .kernels import tf32

    return is_gpu() and tf32.asked()


def convolves_in_fp32() -> bool:
    """Whether the GPU has mlxdiff's own kernel for convolutions in fp32, which needs no memory beside its output."""
    from .kernels import hopper

    return is_gpu() and hopper.available() and not tf32()


def default_dtype() -> mx.Dtype:
    """fp16 on a GPU, fp32 on a CPU, where half precision may be 50 times slower (see is_fast)."""
    mx = require_mlx()
    return mx.float16 if is_gpu() else mx.float32


def is_fast(dtype: mx.Dtype) -> bool:
    """Whether networks of that type run at the device's own speed: half precision on a CPU may not."""
    if is_gpu():
        return True
    from .kernels import native

    return native.is_fast(dtype)


def parse_dtype(dtype: str | mx.Dtype) -> mx.Dtype:
    """The MLX type of a name such as "fp16", "bf16", "float32"; raises RequestError for another."""
    mx = require_mlx()
    name = str(dtype).lower().removeprefix("mlx.core.")
    name = _ALIASES.get(name, name)
    if name not in DTYPES:
        raise RequestError(f"There is no dtype {dtype!s} for a network.", f"Choose one of {', '.join(DTYPES)}.")
    return getattr(mx, DTYPES[name])


def dtype_name(dtype: mx.Dtype) -> str:
    """The short name, such as "fp16", that `parse_dtype` reads back."""
    return next(short for short, name in DTYPES.items() if str(dtype).endswith(f".{name}"))


def memory_size() -> int:
    """Bytes that the default device may use: the GPU's, or this process' share of the machine's.

    MLXDIFF_MEMORY (in units of 10^9 bytes) lowers it, for the sake of other programs.
    """
    return min([_device_memory(), *_wished_limit()])


def _device_memory() -> int:
    mx = require_mlx()
    if is_gpu():
        info = mx.device_info(mx.default_device())
        for key in ("max_recommended_working_set_size", "total_memory", "memory_size"):
            if key in info:
                return int(info[key])
    return ram.allowed()


def _wished_limit() -> list[int]:
    """Bytes that MLXDIFF_MEMORY grants; empty where it is unset."""
    text = os.environ.get("MLXDIFF_MEMORY", "")
    if not text:
        return []
    if re.fullmatch(r"\d{1,6}(\.\d{1,6})?", text) is None or float(text) == 0:
        raise RequestError(f"MLXDIFF_MEMORY is {text[:40]!r}.", "It is a number of GB above 0, such as 8 or 5.5.")
    return [int(float(text) * 1e9)]


def check_memory() -> None:
    """Raises BackendError if an operation of the CPU's lacked memory since the last time: its numbers are NaN."""
    from .kernels import native

    extension = None if is_gpu() else native.serving()
    if extension is not None and extension.lacked_memory():
        raise out_of_memory()


@contextmanager
def lack_of_memory_in_words() -> Iterator[None]:
    """Within it BackendError stands for the errors by which Python, MLX and the extension say that memory ran out."""
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        if not says_out_of_memory(error):
            raise
        raise out_of_memory() from error


def limit_cache() -> int:
    """Sets how many bytes of freed buffers MLX keeps for reuse, and returns that number.

    On a GPU MLX would keep nearly all of its memory, which other programs want: a quarter is left to it. On a CPU it
    keeps 32 MiB, so that every large array is fetched from the system anew and zeroed page by page: 8 times slower for
    an elementwise operation on 64 MiB. There it gets an eighth of the memory, at most 4 GiB, since it never evicts.
    """
    mx = require_mlx()
    limit = memory_size() // 4 if is_gpu() else min(memory_size() // 8, 4 * GIB)
    mx.set_cache_limit(limit)
    return limit


@contextmanager
def small_cache() -> Iterator[None]:
    """Within it MLX keeps few freed buffers: for work whose sizes change all the time, so that they hardly serve."""
    mx = require_mlx()
    mx.clear_cache()
    limit = mx.set_cache_limit(SMALL_CACHE)
    try:
        yield
    finally:
        mx.set_cache_limit(limit)


@contextmanager
def callers_randomness() -> Iterator[None]:
    """Leaves `mx.random` as it was: layers draw weights that are never used as they are made.

    The draws would also stay in memory, since each key depends on the one before and nothing evaluates them.
    """
    mx = require_mlx()
    (state,) = cast("Iterable[mx.array]", mx.random.state)
    key = mx.array(state)
    mx.eval(key)
    try:
        yield
    finally:
        (state,) = cast("Iterable[mx.array]", mx.random.state)
        state[:] = key
        mx.eval(state)


def describe() -> dict[str, Any]:
    """This machine and the versions that decide what a picture looks like and how long it takes, for `info`."""
    prepare()
    mx = require_mlx()
    from .kernels import apple, graphs, native

    own = {"Metal": {"metal": ", ".join(apple.used()) or "no choices"}, "CUDA": {"graphs": graphs.state()}}
    gpu = {"fp32": "rounded to TF32" if tf32() else "exact"} if is_gpu() else {}
    return {
        "mlxdiff": __version__,
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.release()} {platform.machine()}",
        "mlx": mlx_version(mx),
        "backend": backend_name(),
        "device": device_name(),
        "memory": f"{memory_size() / GIB:.1f} GiB",
        "dtype": dtype_name(default_dtype()),
        "blas": blas.live(),
        "native": native.state(),
        **gpu,
        **own.get(backend_name(), {}),
    }
