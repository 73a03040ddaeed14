"""The compiled kernels that are shipped, without a GPU to run them on."""

from __future__ import annotations

import gzip
import importlib.util
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from mlxdiff.kernels import cuda, group_norm_cuda, layer_norm

NATIVE = Path(__file__).parents[2] / "native" / "cuda"
SOURCES = sorted(NATIVE.glob("*.cu"))
TYPES = ("float16", "bfloat16", "float32")


def build():
    spec = importlib.util.spec_from_file_location("build", NATIVE / "build.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("source", SOURCES, ids=lambda path: path.stem)
def test_what_is_shipped_was_made_of_the_sources_that_are_here(source):
    first = gzip.decompress((cuda.FOLDER / f"{source.stem}.ptx.gz").read_bytes()).decode().splitlines()[0]
    assert first == f"// {build().fingerprint(source)}"
    assert {path.name for path in cuda.FOLDER.iterdir()} == {f"{source.stem}.ptx.gz" for source in SOURCES}


def test_every_kernel_that_is_launched_is_there_for_every_type():
    wanted = {
        "group_norm": [f"group_norm_whole_{k}" for k in group_norm_cuda._KEPT]
        + ["group_norm_sums", "group_norm_normalize"],
        "layer_norm": [f"{name}_{k}" for name in ("layer_norm", "shifted_layer_norm") for k in layer_norm._KEPT],
        "pointwise": ["geglu", "add_biased"],
        "join": ["join"],
        "upsample": ["interleave"],
    }
    types = {"linear_geglu_sm90a": TYPES[:2], "conv_sm90a": TYPES[2:]}
    wanted |= {"linear_geglu_sm90a": ["linear_geglu"], "conv_sm90a": ["conv"]}
    assert {path.stem: set(cuda.entries(path.stem)) for path in SOURCES} == {
        source: {f"{name}_{type_}" for name in names for type_ in types.get(source, TYPES)}
        for source, names in wanted.items()
    }


@pytest.mark.parametrize("source", SOURCES, ids=lambda path: path.stem)
def test_each_entry_stands_alone_for_old_drivers_and_cards(source):
    version, target = {"75": ("8.0", "sm_75"), "90a": ("8.4", "sm_90a")}[build().architecture(source)]
    for name, text in cuda.entries(source.stem).items():
        assert re.findall(r"\.visible \.entry (\w+)", text.decode()) == [name]
        assert re.search(rf"^\.version {version}$", text.decode(), re.MULTILINE)
        assert re.search(rf"^\.target {target}$", text.decode(), re.MULTILINE)


@pytest.mark.skipif(shutil.which("ptxas") is None, reason="needs CUDA's assembler")
@pytest.mark.parametrize("source", SOURCES, ids=lambda path: path.stem)
def test_the_assembler_takes_an_entry_of_each_source(tmp_path, source):
    oldest = build().architecture(source)
    for architecture in {f"sm_{oldest}", "sm_90a"}:
        (tmp_path / "entry.ptx").write_bytes(next(iter(cuda.entries(source.stem).values())))
        command = ["ptxas", f"-arch={architecture}", str(tmp_path / "entry.ptx"), "-o", str(tmp_path / "entry.cubin")]
        subprocess.run(command, check=True)
