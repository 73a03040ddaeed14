"""Which device MLX has, and what people are told where it has none."""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
import threading
from pathlib import Path
from types import SimpleNamespace

import mlx.core as mx
import pytest

from mlxdiff import __version__, backend
from mlxdiff.errors import BackendError, RequestError

SOURCE = Path(backend.__file__).parents[1]
linux = pytest.mark.skipif(sys.platform != "linux", reason="speaks of Linux's wheels")
on_cpu = pytest.mark.skipif(mx.default_device().type == mx.gpu, reason="speaks of a CPU")


def complaint(folder: Path, core: str | None) -> str:
    """What require_mlx says in a process where `mlx.core` is this source, or where there is no `mlx`."""
    if core is not None:
        (folder / "mlx").mkdir()
        (folder / "mlx" / "__init__.py").touch()
        (folder / "mlx" / "core.py").write_text(core)
    absent = """
class Absent:
    def find_spec(self, name, *_):
        if name == "mlx": raise ModuleNotFoundError("No module named 'mlx'", name="mlx")
sys.meta_path.insert(0, Absent())
"""
    program = f"""
import sys
import threading
{absent if core is None else ""}
from mlxdiff import backend
from mlxdiff.errors import BackendError
try: backend.require_mlx()
except BackendError as error: print(error.problem + "|" + error.remedy)
"""
    environment = {**os.environ, "PYTHONPATH": f"{folder}{os.pathsep}{SOURCE}"}
    return subprocess.run(
        [sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=True
    ).stdout.strip()


@linux
@pytest.mark.parametrize(
    ("core", "problem", "remedy"),
    [
        (None, "MLX is not installed.", "mlxdiff[cpu]"),
        (
            "raise ImportError('libmlx.so: cannot open shared object file: No such file or directory')",
            "without a backend",
            "mlxdiff[cpu]",
        ),
        (
            "raise ImportError('libcuda.so.1: cannot open shared object file: No such file or directory')",
            "driver",
            "pip uninstall mlx mlx-cuda-12",
        ),
        (
            "raise ImportError('libnccl.so.2: cannot open shared object file: No such file or directory')",
            "CUDA build does not start: libnccl",
            "mlxdiff[cuda12]",
        ),
        (
            "raise ImportError('cudaMemAdvise(data_, 1, 2, 0) failed: invalid argument')",
            "CUDA build does not start",
            "nvidia-smi",
        ),
        (
            "raise ImportError('/lib/libc.so.6: version `GLIBC_2.35\\' not found (required by core.so)')",
            "cannot be loaded: /lib/libc.so.6: version",
            "Start afresh",
        ),
        ("raise OSError('undefined symbol: _ZN3mlx')", "cannot be loaded: undefined symbol", "mlxdiff[cpu]"),
        ("__version__ = '0.31.2'", "This is MLX 0.31.2, and mlxdiff needs 0.32 or newer", "pip install --upgrade mlx"),
        ("__version__ = '0.9.0.dev20251101+abc'", "This is MLX 0.9.0.dev", "--upgrade"),
        (
            "class cuda: is_available = lambda: True\n__version__ = '1.0'\ngpu = 1\ndevice_count = lambda kind: 0",
            "finds no NVIDIA GPU",
            "CUDA_VISIBLE_DEVICES",
        ),
    ],
)
def test_a_broken_mlx_is_one_sentence_and_what_to_install(tmp_path, core, problem, remedy):
    said = complaint(tmp_path, core).split("|")
    assert len(said) == 2
    assert problem in said[0]
    assert remedy in said[1]


@pytest.mark.parametrize("version", ["0.32.0", "0.40.1.dev3", "1.0"])
def test_new_versions_pass(tmp_path, version):
    core = f"class cuda: is_available = lambda: False\n__version__ = {version!r}"
    assert complaint(tmp_path, core) == ""


def test_a_mac_is_told_the_plain_package(monkeypatch):
    monkeypatch.setattr(sys, "platform", "darwin")
    error = backend._explain(ModuleNotFoundError("No module named 'mlx'", name="mlx"))
    assert isinstance(error, BackendError)
    assert "force-reinstall mlx" in error.remedy
    assert "cuda" not in error.remedy


def test_windows_is_told_where_mlx_runs(monkeypatch):
    monkeypatch.setattr(sys, "platform", "win32")
    error = backend._explain(ModuleNotFoundError("No module named 'mlx'", name="mlx"))
    assert str(error) == "MLX does not run on Windows. Use Linux in WSL 2, and install mlxdiff there."


def test_importing_the_backend_imports_no_mlx():
    program = "import sys; from mlxdiff import backend; assert not {'mlx', 'numpy', 'PIL'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", program], env={**os.environ, "PYTHONPATH": str(SOURCE)}, check=True)


# -- number formats ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "dtype"),
    [
        ("fp16", mx.float16),
        ("float16", mx.float16),
        ("half", mx.float16),
        ("bf16", mx.bfloat16),
        ("bfloat16", mx.bfloat16),
        ("fp32", mx.float32),
        ("float32", mx.float32),
        ("FP32", mx.float32),
        (mx.float16, mx.float16),
        (mx.bfloat16, mx.bfloat16),
    ],
)
def test_names_of_number_formats(name, dtype):
    assert backend.parse_dtype(name) == dtype
    assert backend.parse_dtype(backend.dtype_name(dtype)) == dtype


@pytest.mark.parametrize("name", ["fp8", "", "int8", mx.int8, mx.float64, "float64"])
def test_unknown_number_formats(name):
    with pytest.raises(RequestError, match="fp16, bf16, fp32"):
        backend.parse_dtype(name)


def test_short_names_are_those_of_the_command_line():
    assert [backend.dtype_name(dtype) for dtype in (mx.float16, mx.bfloat16, mx.float32)] == ["fp16", "bf16", "fp32"]


@pytest.mark.parametrize(("gpu", "dtype"), [(True, mx.float16), (False, mx.float32)])
def test_half_precision_is_for_gpus(monkeypatch, gpu, dtype):
    monkeypatch.setattr(backend, "is_gpu", lambda: gpu)
    assert backend.default_dtype() == dtype


# -- device and memory ---------------------------------------------------------------------------------------------


@on_cpu
def test_this_machine():
    about = backend.describe()
    assert about["mlxdiff"] == __version__
    assert about["python"] == platform.python_version()
    assert about["backend"] == "CPU"
    assert about["dtype"] == "fp32"
    assert about["device"]
    assert about["blas"] == backend.blas.live()
    assert json.loads(json.dumps(about)) == about


@on_cpu
@linux
def test_memory_is_the_machine_s_or_less():
    total = int(Path("/proc/meminfo").read_text().split()[1]) * 1024
    assert 0 < backend.memory_size() <= total


@pytest.fixture
def cache_limit():
    before = mx.set_cache_limit(0)
    mx.set_cache_limit(before)
    yield before
    mx.set_cache_limit(before)
    mx.clear_cache()


@on_cpu
@pytest.mark.usefixtures("cache_limit")
def test_a_large_buffer_is_kept_for_the_next_operation():
    limit = backend.limit_cache()
    assert 32 * 2**20 < limit <= 4 * backend.GIB
    size = 40 * 2**20  # more than MLX keeps by itself
    x = mx.zeros(size // 4)
    mx.eval(x)
    del x
    assert mx.get_cache_memory() >= size


@pytest.mark.parametrize(("gpu", "limit"), [(True, 20 * backend.GIB), (False, 4 * backend.GIB)])
def test_how_much_is_kept(monkeypatch, cache_limit, gpu, limit):
    monkeypatch.setattr(backend, "is_gpu", lambda: gpu)
    monkeypatch.setattr(backend, "memory_size", lambda: 80 * backend.GIB)
    assert backend.limit_cache() == limit
    assert mx.set_cache_limit(cache_limit) == limit


@pytest.mark.parametrize(
    ("value", "gpu", "rounded"),
    [
        ("0", True, False),
        ("1", True, True),
        (None, True, True),
        ("off", True, False),
        (" 2x", True, True),
        ("1", False, False),
    ],
)
def test_fp32_is_rounded_to_tf32_only_where_mlx_reads_a_number(monkeypatch, value, gpu, rounded):
    monkeypatch.setattr(backend, "is_gpu", lambda: gpu)
    if value is None:
        monkeypatch.delenv("MLX_ENABLE_TF32", raising=False)
    else:
        monkeypatch.setenv("MLX_ENABLE_TF32", value)
    assert backend.tf32() is rounded


@pytest.mark.parametrize(("gpus", "evaluated"), [(1, 0), (2, 1)])
def test_a_thread_is_made_fit_once_and_its_streams_go_with_it(monkeypatch, gpus, evaluated):
    """With several GPUs an operation makes the first one current; MLX's streams are cleared in the thread itself."""
    done = []
    core = SimpleNamespace(
        cuda=SimpleNamespace(is_available=lambda: True),
        gpu="gpu",
        device_count=lambda _: gpus,
        zeros=lambda n, stream: (n, stream),
        eval=lambda array: done.append(array),
        clear_streams=lambda: done.append(threading.get_ident()),
    )
    monkeypatch.setattr(backend, "require_mlx", lambda: core)
    threads = []

    def work():
        threads.append(threading.get_ident())
        backend.enter_thread()
        backend.enter_thread()

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert done == [(1, "gpu")] * evaluated + threads


def test_on_a_cpu_a_thread_needs_nothing(monkeypatch):
    core = SimpleNamespace(cuda=SimpleNamespace(is_available=lambda: False))
    monkeypatch.setattr(backend, "require_mlx", lambda: core)
    backend.enter_thread()
    assert not hasattr(backend._thread, "streams")


# -- what this process becomes ---------------------------------------------------------------------------------------


def test_importing_changes_nothing_and_the_first_model_what_the_docs_say():
    """Environment, import hooks, MLX's cache, its BLAS: untouched by imports, set when a model is opened."""
    program = """
import os, sys
before = dict(os.environ), list(sys.meta_path)
import mlx.core as mx
limit = mx.set_cache_limit(123_456_789)
import mlxdiff
from mlxdiff import Request, StableDiffusion, Step
from mlxdiff.computer import blas
import mlxdiff.pipeline, mlxdiff.batch.runner, mlxdiff.cli.app
assert (dict(os.environ), [f for f in sys.meta_path if f in before[1]]) == (before[0], before[1])
assert len(sys.meta_path) == len(before[1]), sys.meta_path
assert mx.set_cache_limit(123_456_789) == 123_456_789
assert blas.live() == "unknown until a model is loaded"
StableDiffusion("emoji")
assert os.environ["MLX_USE_CUDA_GRAPHS"] == os.environ["MLX_ENABLE_TF32"] == "0"
assert mx.set_cache_limit(1) != 123_456_789
assert blas.live() != "unknown until a model is loaded"
"""
    environment = {**os.environ, "PYTHONPATH": str(SOURCE)}
    for name in ("MLX_USE_CUDA_GRAPHS", "MLX_ENABLE_TF32"):
        environment.pop(name, None)
    done = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
