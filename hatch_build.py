"""Compiles native/ into the wheel: the extension of MLX for Linux CPUs, and native/graphs for NVIDIA GPUs.

Without a compiler the wheel is pure Python. Also by itself, for a checkout: python hatch_build.py
"""

from __future__ import annotations

import json
import os
import platform
import re
import shlex
import shutil
import subprocess
import sys
import sysconfig
import zlib
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

MODULE = "_native"
GRAPHS = "_graphs"  # needs no GPU to be compiled: it finds CUDA's driver and MLX's CUDA backend when it is loaded
AVX512 = ["-mavx512f", "-mavx512vl", "-mavx512dq", "-mavx512bw", "-mfma", "-mprefer-vector-width=512"]
# Name of each set of instructions (a C++ namespace) and the compiler's options for it; avx512_bf16 is for arrays of
# bf16. See native/isa.cpp.
INSTRUCTION_SETS = {
    "x86_64": {
        "baseline": [],
        "avx2": ["-mavx2", "-mfma"],
        "avx512": AVX512,
        "avx512_bf16": [*AVX512, "-mavx512bf16", "-DMLXDIFF_BF16"],
    },
    "aarch64": {"neon": []},
}
# Contraction into fused multiply-adds is off under -std=c++20 alone.
OPTIONS = [
    "-std=c++20",
    "-O3",
    "-DNDEBUG",
    "-fPIC",
    "-fvisibility=hidden",
    "-ffp-contract=fast",
    "-fno-math-errno",
    "-Wall",
]


# The fields of MLX's class CommandEncoder that native/graphs/mlx_cuda.h expects, without spaces.
ENCODER_FIELDS = """
Device&device_;CudaStreamstream_;CudaGraphgraph_;std::shared_ptr<Worker>worker_;intnode_count_{0};
boolin_concurrent_{false};std::vector<cudaGraphNode_t>from_nodes_;std::vector<cudaGraphNode_t>to_nodes_;
std::stringgraph_nodes_key_;std::stringgraph_deps_key_;std::vector<GraphNode>concurrent_nodes_;
std::vector<std::shared_ptr<array::Data>>temporaries_;
""".replace("\n", "")
# And its functions, which are looked for when the module is loaded: one that is missing would be a null pointer.
ENCODER_FUNCTIONS = (
    "voidmake_current();",
    "voidcommit();",
    "voidadd_graph_node(cudaGraph_tchild,conststd::string&subgraph_key,boolis_updatable);",
    "voidadd_completed_handler(std::function<void()>task);",
    "CommandEncoder&get_command_encoder(Streams);",
)
BUFFER_FIELDS = "structCudaBuffer{void*data;size_tsize;intdevice;"


class Unbuildable(Exception):
    """The extension cannot be compiled here; the text says why."""


class CustomBuildHook(BuildHookInterface):
    """Adds the extension to a wheel for Linux, and that wheel's tag."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        if self.target_name != "wheel" or sys.platform != "linux":
            return
        root = Path(self.root)
        parts = {
            MODULE: (build, "its CPU extension, and slower on a CPU"),
            GRAPHS: (build_graphs, "recorded calls, and slower on an NVIDIA GPU"),
        }
        for module, (compile_it, what) in parts.items():
            library, about = outputs(root, module)
            try:
                compile_it(root)
            except (Unbuildable, OSError, ValueError, ImportError) as error:
                self.app.display_warning(f"mlxdiff is installed without {what}: {error}")
                library.unlink(missing_ok=True)
                about.parent.mkdir(exist_ok=True)
                about.write_text(json.dumps({"error": str(error)}) + "\n")
                files = [about]
            else:
                build_data["pure_python"] = False
                build_data["infer_tag"] = True
                files = [library, about]
            if version != "editable":
                build_data["force_include"].update({str(file): f"mlxdiff/kernels/{file.name}" for file in files})


def outputs(root: Path, module: str = MODULE) -> tuple[Path, Path]:
    """A module of the extension, and the file beside it that says what it was compiled against."""
    stem = root / "src" / "mlxdiff" / "kernels" / (module + sysconfig.get_config_var("EXT_SUFFIX"))
    return stem, stem.with_suffix(".json")


def build(root: Path) -> None:
    """Compiles what is out of date and links the extension; raises Unbuildable."""
    mlx, mlx_version = _mlx()
    _build(root, MODULE, mlx, mlx_version, _units)


def build_graphs(root: Path) -> None:
    """The same for native/graphs; raises Unbuildable, also where MLX's classes are not those that it knows."""
    mlx, mlx_version = _any_mlx()
    headers = mlx / "include" / "mlx" / "backend" / "cuda"
    for name, expected in {"device.h": (ENCODER_FIELDS, *ENCODER_FUNCTIONS), "allocator.h": (BUFFER_FIELDS,)}.items():
        text = re.sub(r"\s|//.*", "", (headers / name).read_text(encoding="utf-8"))
        # A virtual function would move all fields.
        if not all(part in text for part in expected) or "virtual" in text.split("classMLX_APIDevice{")[0]:
            raise Unbuildable(f"MLX {mlx_version} has other classes in {name}")
    _build(root, GRAPHS, mlx, mlx_version, _graph_units)


Units = Callable[[Path, Path, Path], Iterator[tuple[Path, Path, list[str]]]]


def _build(root: Path, module: str, mlx: Path, mlx_version: str, units_of: Units) -> None:
    library, about = outputs(root, module)
    compiler = _compiler()
    with_what = zlib.crc32(repr([compiler, OPTIONS, INSTRUCTION_SETS, _nanobind_version()]).encode())
    objects = root / "build" / "native" / f"{library.stem}-mlx{mlx_version}-{with_what:x}"
    objects.mkdir(parents=True, exist_ok=True)
    headers = max(path.stat().st_mtime for path in [Path(__file__), *(root / "native").rglob("*.h")])
    jobs = []
    for source, target, options in units_of(root / "native", objects, mlx):
        newest = max(headers, source.stat().st_mtime)
        if not target.exists() or target.stat().st_mtime < newest:
            jobs.append([*compiler, *OPTIONS, *options, "-c", str(source), "-o", str(target)])
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        list(pool.map(_run, jobs))
    units = [str(target) for _, target, _ in units_of(root / "native", objects, mlx)]
    # libmlx.so is loaded before the extension, and found by its name.
    library.parent.mkdir(exist_ok=True)
    link = ["-shared", "-s", f"-L{mlx / 'lib'}", "-o", str(library)]
    _run([*compiler, *units, *link, "-lmlx", "-pthread"])
    about.write_text(json.dumps({"mlx": mlx_version}) + "\n")


def _units(native: Path, objects: Path, mlx: Path) -> Iterator[tuple[Path, Path, list[str]]]:
    """Source, object and options of everything that is compiled; what takes longest comes first."""
    python = _python_options(mlx)
    yield _nanobind_unit(objects, python)
    for source in sorted(native.glob("*.cpp")):
        yield source, objects / f"{source.stem}.o", python
    sets = INSTRUCTION_SETS.get(platform.machine(), {"baseline": []})
    for source in sorted((native / "kernels").glob("*.cpp")):
        for name, options in sets.items():
            yield source, objects / f"{source.stem}-{name}.o", [f"-DMLXDIFF_ISA={name}", *options]


def _graph_units(native: Path, objects: Path, mlx: Path) -> Iterator[tuple[Path, Path, list[str]]]:
    python = _python_options(mlx)
    yield _nanobind_unit(objects, python)
    for source in sorted((native / "graphs").glob("*.cpp")):
        yield source, objects / f"{source.stem}.o", python


def _python_options(mlx: Path) -> list[str]:
    nanobind = _package("nanobind")
    folders = [sysconfig.get_path("include"), mlx / "include"]
    folders += [nanobind / "include", nanobind / "ext" / "robin_map" / "include"]
    return ["-DNB_DOMAIN=mlx", "-fno-strict-aliasing", *(f"-isystem{folder}" for folder in folders)]


def _nanobind_unit(objects: Path, options: list[str]) -> tuple[Path, Path, list[str]]:
    return _package("nanobind") / "src" / "nb_combined.cpp", objects / "nanobind.o", options


def _any_mlx() -> tuple[Path, str]:
    """Folder and version of MLX: its headers are the same for all backends."""
    try:
        return _package("mlx"), version("mlx")
    except PackageNotFoundError:
        raise Unbuildable("MLX is not there to compile against") from None


def _mlx() -> tuple[Path, str]:
    """Folder and version of MLX's build for CPUs."""
    try:
        version("mlx-cpu")
    except PackageNotFoundError:
        raise Unbuildable("MLX's CPU build (mlx[cpu]) is not there to compile against") from None
    return _package("mlx"), version("mlx")


def _nanobind_version() -> str | None:
    """None for a checkout on the path, which is taken as it is."""
    try:
        return version("nanobind")
    except PackageNotFoundError:
        return None


def _package(name: str) -> Path:
    spec = find_spec(name)
    if spec is None or not spec.submodule_search_locations:
        raise Unbuildable(f"{name} is not installed where the wheel is built")
    return Path(next(iter(spec.submodule_search_locations)))


def _compiler() -> list[str]:
    chosen = os.environ.get("CXX", "").strip()
    if chosen:
        return shlex.split(chosen)
    found = next((name for name in ("c++", "g++", "clang++") if shutil.which(name)), None)
    if found is None:
        raise Unbuildable("there is no C++ compiler (install g++)")
    return [found]


def _run(command: list[str]) -> None:
    try:
        subprocess.run(command, check=True, capture_output=True, text=True, errors="replace")
    except OSError as error:
        raise Unbuildable(f"{command[0]} does not start ({error.strerror})") from error
    except subprocess.CalledProcessError as error:
        complaint = next((row for row in error.stderr.splitlines() if "error" in row), error.stderr.strip()[-200:])
        raise Unbuildable(f"the compiler says: {complaint}") from error


def _attempt(module: str, compile_it: Callable[[Path], None]) -> bool:
    try:
        compile_it(Path(__file__).parent)
    except Unbuildable as reason:
        print(f"{module} is not compiled: {reason}", file=sys.stderr)
        return False
    return True


if __name__ == "__main__":
    sys.exit(not all([_attempt(MODULE, build), _attempt(GRAPHS, build_graphs)]))
