"""MLX's BLAS on a Linux CPU: which one is live, whatever is installed and imported first; and what it computes."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import textwrap
from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest
import torch

from mlxdiff.computer import blas, elf

linux = pytest.mark.skipif(not elf.supported(), reason="only Linux's wheels bring a slow BLAS")
needs_gcc = pytest.mark.skipif(shutil.which("gcc") is None, reason="needs gcc to build a library")
SCIPY = next((path for path, origin in blas._candidates() if origin == "scipy-openblas32"), None)
needs_scipy = pytest.mark.skipif(SCIPY is None, reason="scipy-openblas32 is not installed")
SOURCE = Path(blas.__file__).parents[2]

# What every program below ends with: one JSON line about the process.
REPORT = """
import json, sys, warnings
from pathlib import Path
from mlxdiff import backend
from mlxdiff.computer import blas, elf
backend.prepare()
import mlx.core as mx
gemm = [slot for slot in blas._slots(sys.modules["mlx.core"]) if slot.name == "cblas_sgemm"]
a = mx.arange(12.0).reshape(3, 4)
print(json.dumps({
    "live": blas.live(),
    "library": Path(elf.library_of(gemm[0].target)).name,
    "product": (a @ a.T).tolist(),
}))
"""
WITHOUT_SCIPY = """
import importlib.util
find_spec = importlib.util.find_spec
importlib.util.find_spec = lambda name, *a: None if name == "scipy_openblas32" else find_spec(name, *a)
"""
NO_OPENBLAS = """
import ctypes
class CDLL(ctypes.CDLL):
    def __init__(self, name, *arguments, **options):
        if "openblas" in str(name):
            raise OSError(f"{name}: cannot open shared object file: No such file or directory")
        super().__init__(name, *arguments, **options)
ctypes.CDLL = CDLL
"""


def run(program: str, *options: str, **variables: str) -> tuple[dict, list[str]]:
    """Runs a program and returns its report and the mlxdiff warnings that it gave."""
    environment = {**os.environ, "PYTHONPATH": str(SOURCE), **variables}
    for name in (blas.VARIABLE, "LD_PRELOAD"):
        if name not in variables:
            environment.pop(name, None)
    done = subprocess.run(
        [sys.executable, *options, "-c", textwrap.dedent(program) + REPORT],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout.splitlines()[-1])
    assert report["product"] == (np.arange(12.0).reshape(3, 4) @ np.arange(12.0).reshape(3, 4).T).tolist()
    return report, [line for line in done.stderr.splitlines() if "MlxdiffWarning" in line]


# -- the order of imports ------------------------------------------------------------------------------------------

ORDERS = {
    "mlxdiff first": "import mlxdiff, sys; assert 'mlx.core' not in sys.modules\nimport mlx.core as mx\n",
    "mlx first": "import mlx.core as mx\nmx.eval(mx.ones((2, 2)) @ mx.ones((2, 2)))\nimport mlxdiff\n",
    "mlx through another module": "import mlxdiff\nimport mlx.nn\nimport mlx.core as mx\n",
    "mlx looked for beforehand": """
        import mlxdiff, importlib.util
        assert importlib.util.find_spec('mlx.core') is not None
        import mlx.core as mx
        """,
    "mlx in another thread": """
        import mlxdiff, threading
        threads = [threading.Thread(target=__import__, args=("mlx.core",)) for _ in range(4)]
        from mlxdiff.computer import blas
        threads += [threading.Thread(target=blas.activate) for _ in range(4)]
        for thread in threads: thread.start()
        for thread in threads: thread.join()
        import mlx.core as mx
        """,
    "mlx again after a failure": """
        import mlxdiff, sys
        class Refuse:
            def find_spec(self, name, *_):
                if name == "mlx.core": raise ImportError("not now")
        sys.meta_path.insert(1, refuse := Refuse())
        try: import mlx.core
        except ImportError: sys.meta_path.remove(refuse)
        import mlx.core as mx
        """,
}


@linux
@needs_scipy
@pytest.mark.parametrize("order", ORDERS)
def test_openblas_is_live_whatever_the_order(order):
    report, warned = run(ORDERS[order], "-W", "error")
    assert report["live"].startswith("OpenBLAS 0.")
    assert "(scipy-openblas32)" in report["live"]
    assert report["library"] == "libscipy_openblas.so"
    assert warned == []


@linux
def test_the_module_looks_untouched():
    run("""
        import mlxdiff, importlib.machinery
        import mlx.core as mx
        assert type(mx.__spec__.loader) is importlib.machinery.ExtensionFileLoader
        assert "exec_module" not in vars(mx.__spec__.loader)
        """)


@linux
@needs_scipy
def test_an_importer_that_the_hook_does_not_see():
    """As under a frozen or patched import system: then the first use of mlxdiff does it."""
    run("""
        import mlxdiff, sys
        sys.meta_path[:] = [finder for finder in sys.meta_path if type(finder).__module__ != "mlxdiff.computer.blas"]
        import mlx.core as mx
        from mlxdiff import backend
        assert mlxdiff.computer.blas.live().startswith("unknown")
        assert backend.describe()["blas"].startswith("OpenBLAS")
        """)


# -- which library -------------------------------------------------------------------------------------------------


@linux
@pytest.mark.parametrize("order", ["mlxdiff first", "mlx first"])
def test_without_openblas_one_warning_says_what_to_install(order):
    report, warned = run(NO_OPENBLAS + ORDERS[order])
    assert len(warned) == 1
    assert "pip install scipy-openblas32" in warned[0]
    assert report["live"].startswith("reference BLAS: slow.")
    assert report["library"].startswith("libblas")


@linux
def test_the_reference_can_be_asked_for():
    report, warned = run(ORDERS["mlxdiff first"], MLXDIFF_BLAS="reference")
    assert report["live"] == "reference BLAS, as MLXDIFF_BLAS asks"
    assert report["library"].startswith("libblas")
    assert warned == []


@linux
@pytest.mark.parametrize(
    ("path", "reason"), [("/nowhere/libx.so", "is not there"), ("libm.so.6", "has no cblas_sgemm")]
)
def test_a_named_library_that_does_not_serve(path, reason):
    report, warned = run(ORDERS["mlxdiff first"], MLXDIFF_BLAS=path)
    assert len(warned) == 1
    assert f"{path}, which MLXDIFF_BLAS names, {reason}" in warned[0]
    assert report["library"].startswith("libblas")


# Libraries that call scipy's OpenBLAS under plain names, and misbehave on demand.
SHIM = """
#include <stdint.h>
typedef enum { unused } mode;
#define GEMM(name, real) \\
    void scipy_##name(int, int, int, int, int, int, real, const void*, int, const void*, int, real, void*, int); \\
    void name(int o, int ta, int tb, int m, int n, int k, real alpha, const void* a, int lda, const void* b, int ldb, \\
              real beta, void* c, int ldc) { \\
        scipy_##name(o, ta, TB, m, n, k, alpha, a, lda, b, ldb, beta, c, ldc); }
GEMM(cblas_sgemm, float)
GEMM(cblas_dgemm, double)
float cblas_sdot(INT n, const float* x, INT dx, const float* y, INT dy) {
    float sum = 0;
    for (INT i = 0; i < n; i++) sum += x[i * dx] * y[i * dy];
    return sum;
}
#ifdef CONFIG
const char* openblas_get_config(void) { return CONFIG; }
#endif
"""
OPENBLAS = '-DCONFIG="OpenBLAS 9.8.7 TEST"'


def build(folder: Path, *, whole: str = "int", tb: str = "tb", config: str = OPENBLAS) -> Path:
    assert SCIPY is not None
    library = folder / "libopenblas.so.0"
    (folder / "shim.c").write_text(SHIM)
    command = ["gcc", "-shared", "-fPIC", "-O1", f"-DINT={whole}", f"-DTB={tb}", *([config] if config else [])]
    command += ["-Wl,-soname,libopenblas.so.0", "-o", str(library), str(folder / "shim.c"), SCIPY]
    subprocess.run([*command, f"-Wl,-rpath,{Path(SCIPY).parent}"], check=True)
    return library


@linux
@needs_scipy
@needs_gcc
def test_the_system_s_openblas_serves_without_scipy_s(tmp_path):
    build(tmp_path)
    report, warned = run(WITHOUT_SCIPY + ORDERS["mlxdiff first"], LD_LIBRARY_PATH=str(tmp_path))
    assert report["live"] == "OpenBLAS 9.8.7 (the system's)"
    assert report["library"] == "libopenblas.so.0"
    assert warned == []


@linux
@needs_scipy
@needs_gcc
def test_an_mlx_that_has_openblas_already_keeps_it(tmp_path):
    library = build(tmp_path)
    report, warned = run(ORDERS["mlxdiff first"], LD_PRELOAD=str(library))
    assert report["live"] == "OpenBLAS 9.8.7 (libopenblas.so.0)"
    assert report["library"] == "libopenblas.so.0"
    assert warned == []


@needs_scipy
@needs_gcc
@linux
@pytest.mark.parametrize(
    ("fault", "reason"),
    [
        ({"whole": "int64_t"}, "64-bit integers"),
        ({"config": '-DCONFIG="OpenBLAS 0.3.34 USE64BITINT"'}, "64-bit integers"),
        ({"tb": "111"}, "multiplies wrongly"),
    ],
    ids=["the integers are long", "it says so", "one of two transpositions is lost"],
)
def test_a_library_that_would_give_wrong_results_is_not_used(tmp_path, fault, reason):
    library = build(tmp_path, **fault)
    with pytest.raises(blas._Unfit, match=reason):
        blas._examine(str(library), "here")
    report, warned = run(WITHOUT_SCIPY + ORDERS["mlxdiff first"], LD_LIBRARY_PATH=str(tmp_path))
    assert report["library"].startswith("libblas")
    assert len(warned) == 1
    assert reason in warned[0]


@needs_scipy
@needs_gcc
@linux
def test_an_unknown_blas_serves_only_by_name(tmp_path):
    library = build(tmp_path, config="")
    assert blas._examine(str(library), "here").label == "here"
    with pytest.raises(blas._Unfit, match="is not OpenBLAS"):
        blas._examine(str(library), "here", only_openblas=True)


@linux
@pytest.mark.parametrize(
    ("fault", "words"),
    [
        ("blas._slots = lambda core: 1 / 0", "Please report"),
        (
            "from mlxdiff.computer import elf\ndef no(_): raise PermissionError('sealed')\nelf.redirect = no",
            "LD_PRELOAD",
        ),
    ],
)
@needs_scipy
def test_a_failure_leaves_a_working_mlx_and_one_warning(fault, words):
    program = f"from mlxdiff.computer import blas, elf\nslots, redirect = blas._slots, elf.redirect\n{fault}\n"
    restore = "from mlxdiff import backend\nbackend.prepare()\nblas._slots, elf.redirect = slots, redirect\n"
    report, warned = run(program + restore)
    assert report["library"].startswith("libblas")
    assert report["live"].startswith("reference BLAS: slow")
    assert len(warned) == 1
    assert words in warned[0]


def test_nothing_is_said_before_a_model_is_loaded():
    program = "from mlxdiff.computer import blas; import sys; assert 'mlx.core' not in sys.modules; print(blas.live())"
    done = subprocess.run(
        [sys.executable, "-c", program],
        env={**os.environ, "PYTHONPATH": str(SOURCE)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout == "unknown until a model is loaded\n"


# -- results, in this process, where conftest has imported mlxdiff ---------------------------------------------------


def normal(*shape: int, dtype: type = np.float32) -> np.ndarray:
    return np.random.default_rng(sum(shape)).standard_normal(shape).astype(dtype)


@linux
@needs_scipy
def test_this_very_process_has_openblas():
    assert blas.live().startswith("OpenBLAS")


@pytest.mark.parametrize("shape", [(1, 1, 1), (3, 5, 7), (64, 64, 64), (77, 320, 768), (129, 1, 300)])
def test_matmul(shape):
    m, n, k = shape
    a, b, c = normal(m, k), normal(k, n), normal(m, n)
    x, y, z = mx.array(a), mx.array(b), mx.array(c)
    close = {"rtol": 1e-5, "atol": 1e-4}
    np.testing.assert_allclose(x @ y, a @ b, **close)
    np.testing.assert_allclose(mx.array(a.T.copy()).T @ y, a @ b, **close)
    np.testing.assert_allclose(x @ mx.array(b.T.copy()).T, a @ b, **close)
    np.testing.assert_allclose(mx.addmm(z, x, y, alpha=0.5, beta=-2), 0.5 * (a @ b) - 2 * c, **close)


def test_matmul_of_a_batch_and_of_other_types():
    a, b = normal(2, 3, 8, 16), normal(2, 3, 16, 4)
    np.testing.assert_allclose(mx.array(a) @ mx.array(b), a @ b, rtol=1e-5, atol=1e-5)
    a, b = normal(8, 16) + 1j * normal(8, 16), normal(16, 4) - 1j * normal(16, 4)
    product = mx.array(a.astype(np.complex64)) @ mx.array(b.astype(np.complex64))
    np.testing.assert_allclose(np.array(product), a @ b, rtol=1e-4, atol=1e-4)
    with mx.stream(mx.cpu):
        a, b = normal(8, 16, dtype=np.float64), normal(16, 4, dtype=np.float64)
        product = mx.array(a, dtype=mx.float64) @ mx.array(b, dtype=mx.float64)
        np.testing.assert_allclose(np.array(product), a @ b, rtol=1e-12)


@pytest.mark.parametrize(("kernel", "stride"), [(1, 1), (3, 1), (3, 2)])
def test_conv2d(kernel, stride):
    image, weight = normal(2, 20, 24, 16), normal(32, kernel, kernel, 16)
    ours = mx.conv2d(mx.array(image), mx.array(weight), stride=stride, padding=kernel // 2)
    nchw = torch.tensor(image).permute(0, 3, 1, 2), torch.tensor(weight).permute(0, 3, 1, 2)
    oracle = torch.conv2d(*nchw, stride=stride, padding=kernel // 2).permute(0, 2, 3, 1)
    np.testing.assert_allclose(ours, oracle.numpy(), rtol=1e-4, atol=1e-4)


def test_linear_algebra():
    """LAPACK is called with Fortran's conventions: a wrong width of integers would show here first."""
    n = 96
    a = normal(n + 20, n)
    spd = a.T @ a / n + np.eye(n, dtype=np.float32)
    x, s = mx.array(a), mx.array(spd)
    with mx.stream(mx.cpu):
        u, values, vt = mx.linalg.svd(x)
        q, r = mx.linalg.qr(x)
        lower, inverse = mx.linalg.cholesky(s), mx.linalg.inv(s)
        eigenvalues, vectors = mx.linalg.eigh(s)
        permutation, l_factor, u_factor = mx.linalg.lu(s)
        triangular = mx.linalg.tri_inv(lower)
        mx.eval(u, values, vt, q, r, lower, inverse, eigenvalues, vectors, permutation, l_factor, u_factor, triangular)
    close = {"rtol": 1e-3, "atol": 1e-3}
    np.testing.assert_allclose(values, np.linalg.svd(a)[1], **close)
    np.testing.assert_allclose((np.array(u)[:, :n] * np.array(values)) @ np.array(vt), a, **close)
    np.testing.assert_allclose(np.array(q) @ np.array(r), a, **close)
    np.testing.assert_allclose(np.array(q).T @ np.array(q), np.eye(n), **close)
    np.testing.assert_allclose(lower, np.linalg.cholesky(spd), **close)
    np.testing.assert_allclose(np.array(inverse) @ spd, np.eye(n), **close)
    np.testing.assert_allclose(eigenvalues, np.linalg.eigvalsh(spd), **close)
    np.testing.assert_allclose(np.array(triangular) @ np.array(lower), np.eye(n), **close)
    np.testing.assert_allclose(np.array(l_factor) @ np.array(u_factor), spd[np.array(permutation)], **close)
