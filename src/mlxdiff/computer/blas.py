"""A fast BLAS for MLX on a Linux CPU.

Why. MLX's wheels for Linux bring Netlib's reference BLAS, whose `cblas_sgemm` is a plain loop on one thread: 50 times
slower than OpenBLAS, and every matmul and convolution ends there. MLX has no setting for it.

How. `libmlx.so` calls BLAS and LAPACK through its jump table (see elf.py). Once MLX is loaded, the slots of those
functions are pointed at OpenBLAS. Nothing is compiled, copied or exported, and no other library notices.

Which. PyPI's `scipy-openblas32`, which the extra `mlxdiff[cpu]` installs, else the system's OpenBLAS. A library is
accepted only if its integers have 32 bits, as MLX's calls do, and if a small product comes out right. Otherwise MLX
keeps what it has, with one warning. An MLX that its builder linked to a fast BLAS is left alone.

When. `activate()` acts when the first model is loaded (backend.prepare), however long ago MLX was imported: importing
mlxdiff changes nothing. It gets as many threads as there are free cores at that moment (cores.py);
`OPENBLAS_NUM_THREADS` overrides that. A library that somebody else has loaded keeps its threads.

The native extension has an `sgemm` of its own, which takes the place of OpenBLAS's (`use_product`).

`MLXDIFF_BLAS` overrides the choice: the path of a library, or `reference` to leave MLX alone.
"""

from __future__ import annotations

import os
import re
import sys
import threading
import warnings
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ..errors import MlxdiffWarning

if TYPE_CHECKING:
    import ctypes
    from types import ModuleType

    from .elf import Slot

    _Matrix = Sequence[Sequence[float]]

VARIABLE = "MLXDIFF_BLAS"
REMEDY = "Run: pip install scipy-openblas32 (the extra mlxdiff[cpu] brings it), or install the system's OpenBLAS."

# Fedora and openSUSE call the threaded build libopenblasp, Alpine numbers it 3; elsewhere it is libopenblas.so.0.
_SYSTEM_NAMES = ("libopenblasp.so.0", "libopenblas.so.0", "libopenblaso.so.0", "libopenblas.so.3", "libopenblas.so")
_PREFIXES = ("", "scipy_")
# CBLAS, and Fortran's LAPACK: precision, letters, underscore (sgesdd_, dpotrf_, cheevd_).
_FUNCTION = re.compile(r"cblas_[a-z0-9_]+|[sdcz][a-z0-9]{2,7}_")
# Files that hold a slow BLAS, or (MLX's own) a slot that is not bound yet. MKL, BLIS, FlexiBLAS are left alone.
_SLOW_FILE = re.compile(r"lib(c?blas|mlx)\b.*|core\..*")
# What OpenBLAS reads its number of threads from.
_THREADS = ("OPENBLAS_NUM_THREADS", "GOTO_NUM_THREADS", "OMP_NUM_THREADS")
_AS_BUILT = "the one that MLX was built with"

_lock = threading.Lock()
_live: str | None = None
_provider: _Provider | None = None  # what MLX was given


class _Unfit(Exception):
    """A library that must not be used; the text says why."""


class _Absent(_Unfit):
    """There is no library of that name."""


@dataclass(frozen=True)
class _Provider:
    library: ctypes.CDLL
    prefix: str
    label: str

    def function(self, name: str) -> int | None:
        """Address of the function, or None."""
        import ctypes

        try:
            return ctypes.cast(self.library[self.prefix + name], ctypes.c_void_p).value
        except AttributeError:
            return None


def activate() -> None:
    """Replaces the BLAS of the MLX that is loaded, or warns that a slow one has to stay; does nothing twice."""
    global _live
    warning = None
    with _lock:
        core = sys.modules.get("mlx.core")
        if core is None or _live is not None:
            return
        try:
            _live, warning = _replace(core)
        except Exception as error:  # a faster BLAS is never worth an MLX that cannot be imported
            _live = f"reference BLAS: slow ({type(error).__name__}: {error})"
            warning = f"MLX keeps the BLAS it has, since its jump table cannot be read ({error}). Please report this."
    if warning is not None:
        warnings.warn(warning, MlxdiffWarning, stacklevel=2)


def live() -> str:
    """Which BLAS MLX computes with on the CPU, for people."""
    return "unknown until a model is loaded" if _live is None else _live


def threads() -> int | None:
    """How many threads the BLAS that MLX was given takes; None if MLX keeps its own, or if nothing tells."""
    try:
        return None if _provider is None else _provider.library[f"{_provider.prefix}openblas_get_num_threads"]()
    except AttributeError:
        return None


def wished_threads() -> int | None:
    """How many threads the environment asks for; None where it does not say, or says something else than a number."""
    texts = (os.environ.get(name, "").strip() for name in _THREADS)
    wished = next((text for text in texts if text), "")
    return int(wished) if re.fullmatch(r"[1-9]\d{0,3}", wished) else None


def use_product(address: int) -> None:
    """Points MLX's cblas_sgemm at a function of the same form, unless MLX has a BLAS that somebody chose for it."""
    from . import elf

    core = sys.modules.get("mlx.core")
    if core is None or sys.platform == "darwin" or not elf.supported() or os.environ.get(VARIABLE, "").strip():
        return
    with _lock:
        slots = [slot for slot in _slots(core) if slot.name == "cblas_sgemm"]
        if _provider is None and not all(_identify(elf.library_of(slot.target))[1] for slot in slots):
            return
        with suppress(OSError):  # a jump table that cannot be changed: MLX keeps what it has
            elf.redirect(dict.fromkeys(slots, address))


def _replace(core: ModuleType) -> tuple[str, str | None]:
    """What `live` says from now on, and a warning if that is slow and need not be."""
    global _provider
    if sys.platform == "darwin":
        return "Accelerate", None
    from . import elf

    slots = _slots(core) if elf.supported() else []
    gemm = [slot for slot in slots if slot.name == "cblas_sgemm"]
    if not gemm:
        return _AS_BUILT, None
    name, slow = _identify(elf.library_of(gemm[0].target))
    chosen = os.environ.get(VARIABLE, "").strip()
    if chosen == "reference":
        return f"{name}, as {VARIABLE} asks", None
    if not slow and not chosen:
        return name, None

    try:
        provider = _named(chosen) if chosen else _first_fit()
    except _Unfit as error:
        remedy = f"Name another library, or unset {VARIABLE}." if chosen else REMEDY
        state = f"{name}: slow. {remedy}" if slow else name
        if not chosen and core.default_device() == core.gpu:
            return state, None
        consequence = ", 50 times slower than OpenBLAS" if slow else ""
        return state, f"MLX computes with {name}{consequence}: {error}. {remedy}"

    try:
        elf.redirect({slot: target for slot in slots if (target := provider.function(slot.name)) is not None})
    except OSError as error:
        preload = "libopenblas.so.0, the system's OpenBLAS" if provider.prefix else provider.library._name
        remedy = f"Start Python with LD_PRELOAD={preload}."
        return f"{name}: slow. {remedy}", f"MLX keeps {name}, whose jump table cannot be changed ({error}). {remedy}"
    _provider = provider
    return provider.label, None


def _slots(core: ModuleType) -> list[Slot]:
    """BLAS and LAPACK slots of libmlx.so, and of the extension itself where MLX is linked into it."""
    from . import elf

    extension = getattr(core, "__file__", None)
    beside = () if extension is None else (os.path.join(os.path.dirname(extension), "lib", "libmlx.so"), extension)
    libraries = (elf.loaded(name) for name in (*beside, "libmlx.so"))
    slots = {slot for library in libraries if library is not None for slot in elf.imported_slots(library, _is_blas)}
    return sorted(slots, key=lambda slot: slot.address)


def _is_blas(name: str) -> bool:
    return _FUNCTION.fullmatch(name) is not None


def _identify(path: str | None) -> tuple[str, bool]:
    """Name of the BLAS in the library at `path`, and whether it is known to be slow."""
    from . import elf

    library = None if path is None else elf.loaded(path)
    if path is None or library is None:
        return "an unknown BLAS", True
    if _openblas_config(library, "") is not None:
        return _describe(library, "", os.path.basename(path)), False
    slow = _SLOW_FILE.fullmatch(os.path.basename(path)) is not None
    return ("reference BLAS" if slow else os.path.basename(path)), slow


def _named(path: str) -> _Provider:
    try:
        return _examine(path, path)
    except _Unfit as error:
        raise _Unfit(f"{path}, which {VARIABLE} names, {error}") from None


def _first_fit() -> _Provider:
    """The first OpenBLAS that is installed and passes; raises _Unfit with the reasons when none does."""
    reasons: list[str] = []
    for path, origin in _candidates():
        provider = _try(path, origin, reasons)
        if provider is not None:
            return provider
    raise _Unfit("; ".join(reasons) if reasons else "no OpenBLAS is installed")


def _try(path: str, origin: str, reasons: list[str]) -> _Provider | None:
    try:
        return _examine(path, origin, only_openblas=True)
    except _Absent:
        return None
    except _Unfit as error:
        reasons.append(f"{path} {error}")
        return None


def _candidates() -> Iterator[tuple[str, str]]:
    """Paths or sonames of OpenBLAS, best first, each with where it comes from."""
    from importlib.util import find_spec

    spec = find_spec("scipy_openblas32")
    folders = None if spec is None else spec.submodule_search_locations
    for folder in () if folders is None else folders:
        yield os.path.join(folder, "lib", "libscipy_openblas.so"), "scipy-openblas32"
    for name in _SYSTEM_NAMES:
        yield os.path.join(sys.prefix, "lib", name), "this environment's"  # conda's, where the loader does not look
        yield name, "the system's"


def _examine(path: str, origin: str, *, only_openblas: bool = False) -> _Provider:
    """Loads a library and tries it; raises _Unfit with the reason when MLX must not call it."""
    import ctypes

    from . import elf

    shared = elf.loaded(path) is not None
    try:
        library = ctypes.CDLL(path, mode=os.RTLD_LOCAL)
    except OSError as error:
        absent = str(error).startswith(f"{path}: cannot open shared object file")
        raise (_Absent("is not there") if absent else _Unfit(f"cannot be loaded ({error})")) from None
    prefix = next((prefix for prefix in _PREFIXES if hasattr(library, prefix + "cblas_sgemm")), None)
    if prefix is None:
        raise _Unfit("has no cblas_sgemm")
    config = _openblas_config(library, prefix)
    if config is None and only_openblas:
        raise _Unfit("is not OpenBLAS")
    if (config is not None and "USE64BITINT" in config) or not _has_32_bit_integers(library, prefix):
        raise _Unfit("has 64-bit integers where MLX passes 32-bit ones")
    if not _multiplies(library, prefix):
        raise _Unfit("multiplies wrongly on this processor (OPENBLAS_CORETYPE=ARMV8 or HASWELL takes plainer kernels)")
    if not shared:
        _limit_threads(library, prefix)
    return _Provider(library, prefix, _describe(library, prefix, origin))


def _limit_threads(library: ctypes.CDLL, prefix: str) -> None:
    """Leaves OpenBLAS no more threads than there are free cores, unless the environment says how many."""
    from . import cores

    if any(os.environ.get(name) for name in _THREADS) or sys.platform != "linux":
        return
    try:
        current = library[f"{prefix}openblas_get_num_threads"]()
        library[f"{prefix}openblas_set_num_threads"](min(current, cores.free()))
    except AttributeError:  # another library, or a build without threads
        return


def _has_32_bit_integers(library: ctypes.CDLL, prefix: str) -> bool:
    """Passes a length whose low half is 2 and which is negative as a whole: a BLAS of 64-bit integers sums nothing."""
    import ctypes

    ones = (ctypes.c_float * 2)(1.0, 1.0)
    # Indexing makes a fresh function object, so that no other user's prototype changes.
    dot = library[f"{prefix}cblas_sdot"]
    dot.argtypes = (ctypes.c_int64, ctypes.c_void_p, ctypes.c_int64, ctypes.c_void_p, ctypes.c_int64)
    dot.restype = ctypes.c_float
    return dot(2 - 2**32, ones, 1, ones, 1) == 2.0


def _multiplies(library: ctypes.CDLL, prefix: str) -> bool:
    """Compares products of small whole numbers with the same sums in Python: both precisions, transposed, accumulated.

    One product is not enough. OpenBLAS 0.3.34 for ARM's SME gets A @ B right and nearly all other cases wrong.
    """
    import ctypes

    m, n, k = 11, 13, 17
    left = [[(3 * i + 5 * t) % 13 - 6 for t in range(k)] for i in range(m)]
    right = [[(7 * t + 2 * j) % 17 - 8 for j in range(n)] for t in range(k)]
    start = [[(i + j) % 5 - 2 for j in range(n)] for i in range(m)]
    product = [[sum(row[t] * right[t][j] for t in range(k)) for j in range(n)] for row in left]
    for name, real in (("cblas_sgemm", ctypes.c_float), ("cblas_dgemm", ctypes.c_double)):
        for turned in ((False, False), (False, True), (True, False), (True, True)):
            for alpha, beta in ((1, 0), (2, -1)):
                expected = [alpha * p + beta * c for p, c in zip(_flat(product), _flat(start), strict=True)]
                if _gemm(library[prefix + name], real, left, right, start, turned, alpha, beta) != expected:
                    return False
    return True


def _gemm(
    function: Any, real: Any, left: _Matrix, right: _Matrix, start: _Matrix, turned: tuple[bool, bool], *factors: float
) -> list[float]:
    """alpha * left @ right + beta * start, where a matrix that is `turned` is handed over transposed."""
    import ctypes

    row_major, plain, transposed = 101, 111, 112
    alpha, beta = factors
    a, b = (list(zip(*x, strict=True)) if t else x for x, t in zip((left, right), turned, strict=True))
    data = [(real * (len(x) * len(x[0])))(*_flat(x)) for x in (a, b, start)]
    modes = [transposed if t else plain for t in turned]
    whole, pointer = ctypes.c_int, ctypes.c_void_p
    function.argtypes = (*[whole] * 6, real, pointer, whole, pointer, whole, real, pointer, whole)
    function.restype = None
    m, n, k = len(start), len(start[0]), len(right)
    function(row_major, *modes, m, n, k, alpha, data[0], len(a[0]), data[1], len(b[0]), beta, data[2], n)
    return list(data[2])


def _flat(matrix: _Matrix) -> list[float]:
    return [value for row in matrix for value in row]


def _openblas_config(library: ctypes.CDLL, prefix: str) -> str | None:
    """What OpenBLAS says about its build ("OpenBLAS 0.3.34 DYNAMIC_ARCH ..."); None for any other library."""
    import ctypes

    try:
        config = library[f"{prefix}openblas_get_config"]
    except AttributeError:
        return None
    config.argtypes, config.restype = (), ctypes.c_char_p
    text = config()
    return "" if text is None else text.decode("ascii", "replace")


def _describe(library: ctypes.CDLL, prefix: str, origin: str) -> str:
    config = _openblas_config(library, prefix)
    if config is None:
        return origin
    version = re.match(r"OpenBLAS \d+(\.\d+){0,2}", config)
    name = f"{'OpenBLAS' if version is None else version[0]} ({origin})"
    try:
        threads = library[f"{prefix}openblas_get_num_threads"]()
    except AttributeError:
        return name
    return f"{name}, {threads} thread{'' if threads == 1 else 's'}"
