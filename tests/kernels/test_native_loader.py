"""When the extension is used, and what is said when it is not."""

from __future__ import annotations

import json
import re
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace

import mlx.core as mx
import pytest
from arrays import normal
from patience import WAIT

from mlxdiff import backend
from mlxdiff.computer import blas, cores
from mlxdiff.errors import BackendError, MlxdiffWarning
from mlxdiff.kernels import native
from mlxdiff.kernels.activations import gelu
from mlxdiff.kernels.attention import attention

on_cpu = pytest.mark.skipif(mx.default_device() != mx.cpu, reason="the extension is for CPUs")
compiled = pytest.mark.skipif(native.serving() is None, reason=f"the extension is {native.state()}")
linux = pytest.mark.skipif(sys.platform != "linux", reason="the extension is for Linux")


@pytest.fixture
def loaded_anew(monkeypatch):
    """Calls native._loaded again, with MLXDIFF_NATIVE set; afterwards all is as before."""
    before = native._loaded()

    def forget():
        native._loaded.cache_clear()
        native._loaded_once.cache_clear()

    def load(variable):
        monkeypatch.setenv(native.VARIABLE, variable)
        forget()
        return native._loaded()

    yield load
    monkeypatch.delenv(native.VARIABLE, raising=False)
    forget()
    if before[0] is not None:
        before[0].use_instruction_set(before[1].split(",")[0])


def refusal(tmp_path, **about):
    library = tmp_path / "_native.so"
    library.touch()
    if about:
        library.with_suffix(".json").write_text(json.dumps(about))
    with pytest.raises(native._Unfit) as reason:
        native._fitting(library)
    return str(reason.value)


@linux
def test_an_extension_that_is_absent(tmp_path):
    assert "not compiled" in refusal(tmp_path)


@linux
@on_cpu
def test_an_extension_whose_library_is_lost(tmp_path):
    (tmp_path / "_native.json").write_text(json.dumps({"mlx": backend.mlx_version(mx)}))
    with pytest.raises(native._Unfit, match=r"_native\.so is missing; install"):
        native._fitting(tmp_path / "_native.so")


@linux
def test_an_extension_that_could_not_be_compiled_says_why(tmp_path):
    assert refusal(tmp_path, error="there is no C++ compiler").endswith("there is no C++ compiler")


@linux
def test_an_extension_for_another_mlx_is_not_even_opened(tmp_path, monkeypatch):
    monkeypatch.setattr(native, "import_module", lambda *_: pytest.fail("it was opened"))
    reason = refusal(tmp_path, mlx="0.1.2")
    assert "0.1.2" in reason
    assert backend.mlx_version(mx) in reason


@linux
def test_an_update_of_mlx_is_said_once(loaded_anew, monkeypatch):
    def outdated(_):
        raise native._OutdatedError("it was compiled for MLX 0.1.2, and this is 0.1.3")

    monkeypatch.setattr(native, "_fitting", outdated)
    with pytest.warns(MlxdiffWarning, match="off: it was compiled for MLX 0.1.2"):
        module, state = loaded_anew("")
    assert module is None
    assert state.startswith("off: it was compiled for MLX 0.1.2")
    native._loaded()  # a second warning would be an error here


@linux
@on_cpu
@pytest.mark.parametrize("error", [ImportError("undefined symbol"), TypeError("incompatible function arguments")])
def test_an_extension_that_does_not_share_mlx_s_types(tmp_path, monkeypatch, error):
    def fail(*_):
        raise error

    monkeypatch.setattr(native, "import_module", fail)
    assert str(error) in refusal(tmp_path, mlx=backend.mlx_version(mx))


@linux
@on_cpu
def test_an_extension_of_an_older_mlxdiff(tmp_path, monkeypatch):
    """As in a checkout whose sources were renewed: it lacks operations that are called now."""
    older = SimpleNamespace(silu=None, set_threads=None)
    monkeypatch.setattr(native, "import_module", lambda *_: older)
    assert "older mlxdiff" in refusal(tmp_path, mlx=backend.mlx_version(mx))


@compiled
def test_what_is_called_of_the_extension_is_checked_when_it_is_loaded():
    folder = Path(native.__file__).parents[1]
    sources = "".join(path.read_text(encoding="utf-8") for path in folder.rglob("*.py"))
    called = set(re.findall(r"\b(?:extension|module)\.(\w+)\(", sources)) & set(dir(native.serving()))
    assert called <= set(native._FUNCTIONS)
    assert len(called) > 10


@compiled
@pytest.mark.usefixtures("loaded_anew")
def test_threads_that_ask_at_once_load_it_once(monkeypatch):
    """Its threads are counted when an operation begins: nobody may change their number while another computes."""
    made, fitting, came = [], native._fitting, threading.Semaphore(0)

    def slowly(library):
        made.append(library)
        assert all(came.acquire(timeout=WAIT) for _ in range(4))
        time.sleep(0.2)  # from there to the lock
        return fitting(library)

    def ask():
        came.release()
        return load()

    monkeypatch.setattr(native, "_fitting", slowly)
    native._loaded_once.cache_clear()
    load = native._loaded.__wrapped__  # what runs in each thread that comes in before the first is done
    with ThreadPoolExecutor(4) as pool:
        states = [future.result()[1] for future in [pool.submit(ask) for _ in range(4)]]
    assert len(made) == 1
    assert len(set(states)) == 1


@compiled
def test_its_threads_are_there_before_products_of_mlx_come_in(loaded_anew, monkeypatch):
    order = []
    monkeypatch.setattr(
        blas, "use_product", lambda _: order.append(native.import_module("mlxdiff.kernels._native").threads())
    )
    native.serving().set_threads(1)
    monkeypatch.setenv("OPENBLAS_NUM_THREADS", "3")
    loaded_anew("")
    assert order == [3]


@linux
@on_cpu
def test_an_extension_that_computes_wrongly(tmp_path, monkeypatch):
    wrong = SimpleNamespace(**{**dict.fromkeys(native._FUNCTIONS), "silu": lambda x: x})
    monkeypatch.setattr(native, "import_module", lambda *_: wrong)
    assert "wrongly" in refusal(tmp_path, mlx=backend.mlx_version(mx))


@on_cpu
def test_without_it_the_plain_path_computes(monkeypatch, loaded_anew):
    monkeypatch.setattr(native, "_fitting", lambda _: (_ for _ in ()).throw(native._Unfit("gone")))
    module, state = loaded_anew("")
    assert module is None
    assert state == "off: gone"
    assert gelu(mx.array([1.0])).item() == pytest.approx(0.8413447, rel=1e-5)


@on_cpu
def test_it_can_be_turned_off(loaded_anew):
    assert loaded_anew("off") == (None, "off, as MLXDIFF_NATIVE asks")
    q = mx.array(normal(1, 9, 8))
    off = attention(q, q, q, heads=2)
    assert native.serving(q) is None
    assert backend.describe()["native"] == native.state()
    loaded_anew("")
    assert mx.abs(attention(q, q, q, heads=2) - off).max().item() < 1e-5


@compiled
def test_each_instruction_set_can_be_asked_for(loaded_anew):
    for name in native.serving().instruction_sets():
        assert loaded_anew(name)[1].startswith(f"{name}, ")


@compiled
@pytest.mark.parametrize("name", ["mmx", "1", "OFF"])
def test_an_instruction_set_that_is_not_there(loaded_anew, name):
    with pytest.raises(BackendError, match=r"MLXDIFF_NATIVE .* no instruction set.*\. Set it to off, "):
        loaded_anew(name)


@compiled
@pytest.mark.parametrize("dtype", [mx.float16, mx.bfloat16, mx.int32])
def test_it_serves_fp32_only(dtype):
    assert native.serving(mx.zeros(3), None) is not None
    assert native.serving(mx.zeros(3), mx.zeros(3, dtype)) is None


@compiled
@pytest.mark.parametrize("told", [None, 3])
def test_it_has_a_thread_for_each_core_that_it_may_use_or_as_many_as_the_user_says(loaded_anew, monkeypatch, told):
    for name in blas._THREADS:
        monkeypatch.delenv(name, raising=False)
    if told is not None:
        monkeypatch.setenv("OPENBLAS_NUM_THREADS", str(told))
    module, state = loaded_anew("")
    assert module.threads() == (cores.allowed() if told is None else told)
    assert f" {module.threads()} thread" in state
