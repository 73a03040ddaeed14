"""The build hook: an installation without a compiler succeeds, and says why the extension is missing."""

from __future__ import annotations

import importlib.util
import json
import os
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from mlxdiff.kernels import native

ROOT = Path(__file__).parents[1]
_spec = importlib.util.spec_from_file_location("hatch_build", ROOT / "hatch_build.py")
hatch_build = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(hatch_build)

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the extension is for Linux")


@pytest.fixture
def checkout(tmp_path):
    """A copy of what is compiled, with an extension of an earlier build."""
    (tmp_path / "native" / "kernels").mkdir(parents=True)
    library, _ = hatch_build.outputs(tmp_path)
    library.parent.mkdir(parents=True)
    library.write_bytes(b"old")
    return tmp_path


def mlx_headers(folder):
    """A folder that has the headers of the MLX that is installed, as far as they are compared."""
    for name in ("device.h", "allocator.h"):
        target = folder / "include" / "mlx" / "backend" / "cuda" / name
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text((hatch_build._any_mlx()[0] / target.relative_to(folder)).read_text())
    return folder


def run_hook(root, version="standard", target="wheel"):
    """The build data and the warnings that the hook leaves."""
    warnings = []
    app = SimpleNamespace(display_warning=warnings.append)
    hook = hatch_build.CustomBuildHook(str(root), {}, None, None, str(root / "dist"), target, app)
    data = {"pure_python": True, "infer_tag": False, "force_include": {}}
    hook.initialize(version, data)
    return data, warnings


@pytest.mark.parametrize("compiler", ["/nowhere/c++", "false"])
def test_without_a_compiler_the_wheel_is_pure_python(checkout, monkeypatch, compiler):
    headers = mlx_headers(checkout)
    monkeypatch.setattr(hatch_build, "_any_mlx", lambda: (headers, "1.2.3"))
    monkeypatch.setattr(hatch_build, "_mlx", lambda: (checkout, "1.2.3"))
    monkeypatch.setattr(hatch_build, "_package", lambda _: checkout)
    monkeypatch.setenv("CXX", compiler)
    data, warnings = run_hook(checkout)
    library, about = hatch_build.outputs(checkout)
    abouts = [about, hatch_build.outputs(checkout, hatch_build.GRAPHS)[1]]
    assert data["pure_python"]
    assert not data["infer_tag"]
    assert data["force_include"] == {str(path): f"mlxdiff/kernels/{path.name}" for path in abouts}
    assert not library.exists()
    for path, warning in zip(abouts, warnings, strict=True):
        reason = json.loads(path.read_text())["error"]
        assert reason in warning
    with pytest.raises(native._Unfit, match="could not be compiled"):
        native._fitting(library)


def test_no_compiler_on_the_path(monkeypatch, tmp_path):
    monkeypatch.delenv("CXX", raising=False)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(hatch_build.Unbuildable, match=r"no C\+\+ compiler"):
        hatch_build._compiler()


def test_no_mlx_to_compile_against(checkout, monkeypatch):
    def missing(name):
        raise hatch_build.PackageNotFoundError(name)

    monkeypatch.setattr(hatch_build, "version", missing)
    _, warnings = run_hook(checkout)
    assert "mlx[cpu]" in warnings[0]


def test_a_wheel_with_the_extension_is_tagged_for_this_platform(checkout, monkeypatch):
    monkeypatch.setattr(hatch_build, "build", lambda _: None)
    monkeypatch.setattr(hatch_build, "build_graphs", lambda _: None)
    data, warnings = run_hook(checkout)
    assert not warnings
    assert data["infer_tag"]
    assert not data["pure_python"]
    both = {*hatch_build.outputs(checkout), *hatch_build.outputs(checkout, hatch_build.GRAPHS)}
    assert {Path(name).name for name in data["force_include"]} == {path.name for path in both}
    assert run_hook(checkout, version="editable")[0]["force_include"] == {}


@pytest.mark.parametrize(
    ("known", "other"),
    [
        ("CudaStream stream_;", "int more; CudaStream stream_;"),
        ("void* data;", "int more; void* data;"),
        ("void add_completed_handler(std::function<void()> task);", "void add_completed_handler(Task task);"),
        ("void commit();", "void commit(bool wait);"),
        ("~CommandEncoder();", "virtual ~CommandEncoder();"),
    ],
)
def test_where_mlx_has_other_classes_than_are_known_nothing_is_compiled(checkout, monkeypatch, known, other):
    folder = mlx_headers(checkout)
    monkeypatch.setattr(hatch_build, "_any_mlx", lambda: (folder, "9.9"))
    monkeypatch.setattr(hatch_build, "_build", lambda *_: None)
    hatch_build.build_graphs(checkout)
    for name in ("device.h", "allocator.h"):
        path = folder / "include" / "mlx" / "backend" / "cuda" / name
        path.write_text(path.read_text().replace(known, other))
    with pytest.raises(hatch_build.Unbuildable, match="has other classes"):
        hatch_build.build_graphs(checkout)


def test_other_targets_hold_no_extension(checkout, monkeypatch):
    monkeypatch.setattr(hatch_build, "build", lambda _: pytest.fail("it was compiled"))
    assert run_hook(checkout, target="sdist")[0]["pure_python"]


def test_only_what_changed_is_compiled_again(checkout, monkeypatch):
    commands = []

    def record(command):
        commands.append(command)
        Path(command[command.index("-o") + 1]).touch()

    (checkout / "native" / "pool.cpp").touch()
    (checkout / "native" / "kernels" / "norms.cpp").touch()
    (checkout / "native" / "kernels.h").touch()
    (checkout / "src").joinpath("nb_combined.cpp").touch()
    monkeypatch.setattr(hatch_build, "_mlx", lambda: (checkout, "1.2.3"))
    monkeypatch.setattr(hatch_build, "_package", lambda _: checkout)
    monkeypatch.setattr(hatch_build, "_compiler", lambda: ["c++"])
    monkeypatch.setattr(hatch_build, "_run", record)
    hatch_build.build(checkout)
    sets = len(hatch_build.INSTRUCTION_SETS.get(os.uname().machine, {"baseline": []}))
    assert len(commands) == 2 + sets + 1  # nanobind and pool.cpp, norms.cpp for each set, and the link
    commands.clear()
    hatch_build.build(checkout)
    assert len(commands) == 1
    assert json.loads(hatch_build.outputs(checkout)[1].read_text()) == {"mlx": "1.2.3"}
    newer = Path(hatch_build.__file__).stat().st_mtime + 10**6
    os.utime(checkout / "native" / "kernels" / "norms.cpp", (newer, newer))
    commands.clear()
    hatch_build.build(checkout)
    assert [Path(command[command.index("-c") + 1]).name for command in commands[:-1]] == ["norms.cpp"] * sets
