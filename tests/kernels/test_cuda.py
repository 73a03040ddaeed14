"""The compiled kernels that are shipped, without a GPU to run them on."""

from __future__ import annotations

import gzip
import importlib.util
import itertools
import re
import shutil
import struct
import subprocess
from pathlib import Path

import pytest

from mlxdiff.kernels import (
    cuda,
    fp32_hopper,
    geglu_hopper,
    group_norm_cuda,
    group_norm_hopper,
    hopper,
    layer_norm,
)

NATIVE = Path(__file__).parents[2] / "native" / "cuda"
SOURCES = sorted(NATIVE.glob("*.cu"))
DIVISIONS = [(512, 1), (512, 2), (256, 1), (256, 2), (256, 4), (256, 8)]  # threads, and blocks of a cluster
BATCHES = (1, 2, 3, 8, 16, 32)
ROWS = (1, 3, 63, 64, 256, 1024, 1961, 4096, 9216, 16384)
CHANNELS = (32, 64, 96, 128, 320, 512, 640, 960, 1280, 1920, 2560, 4096)
TYPES = ("float16", "bfloat16", "float32")
PORTABLE = [source for source in SOURCES if "_sm90" not in source.stem]


def build():
    spec = importlib.util.spec_from_file_location("build", NATIVE / "build.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def entries(source: Path) -> set[str]:
    """The names of a source's kernels, as compiled."""
    if source in PORTABLE:
        return set(cuda.entries(source.stem))
    sections = re.findall(rb"\.text\.(\w+)", cuda.code(source.stem, "any"))
    return {name.decode() for name in sections}


@pytest.mark.parametrize("source", SOURCES, ids=lambda path: path.stem)
def test_what_is_shipped_was_made_of_the_sources_that_are_here(source):
    first, _, _ = gzip.decompress(build().output(source).read_bytes()).partition(b"\n")
    assert first.decode() == f"// {build().fingerprint(source)}"
    assert {path.name for path in cuda.FOLDER.iterdir()} == {build().output(source).name for source in SOURCES}


def test_every_kernel_that_is_launched_is_there_for_every_type():
    wanted = {
        "group_norm": [f"group_norm_whole_{k}" for k in group_norm_cuda._KEPT]
        + ["group_norm_sums", "group_norm_normalize"],
        "group_norm_sm90": [f"group_norm_slabs_{blocks}_{threads}" for threads, blocks in DIVISIONS],
        "layer_norm": [f"{name}_{k}" for name in ("layer_norm", "shifted_layer_norm") for k in layer_norm._KEPT],
        "pointwise": ["geglu", "add_biased"],
        "join": ["join"],
        "upsample": ["interleave"],
    }
    types = {"linear_geglu_sm90a": TYPES[:2], "conv_sm90a": TYPES[2:]}
    wanted |= {"linear_geglu_sm90a": ["linear_geglu"], "conv_sm90a": ["conv"]}
    assert {path.stem: entries(path) for path in SOURCES} == {
        source: {f"{name}_{type_}" for name in names for type_ in types.get(source, TYPES)}
        for source, names in wanted.items()
    }


@pytest.mark.parametrize("source", PORTABLE, ids=lambda path: path.stem)
def test_each_entry_stands_alone_for_old_drivers_and_cards(source):
    for name, text in cuda.entries(source.stem).items():
        assert re.findall(r"\.visible \.entry (\w+)", text.decode()) == [name]
        assert re.search(r"^\.version 8\.0$", text.decode(), re.MULTILINE)
        assert re.search(r"^\.target sm_75$", text.decode(), re.MULTILINE)
        assert cuda.code(source.stem, name) == text


@pytest.mark.skipif(shutil.which("ptxas") is None, reason="needs CUDA's assembler")
@pytest.mark.parametrize("architecture", ["sm_75", "sm_90"])
def test_the_assembler_takes_an_entry_of_each_source(tmp_path, architecture):
    for source in PORTABLE:
        (tmp_path / "entry.ptx").write_bytes(next(iter(cuda.entries(source.stem).values())))
        command = ["ptxas", f"-arch={architecture}", str(tmp_path / "entry.ptx"), "-o", str(tmp_path / "entry.cubin")]
        subprocess.run(command, check=True)


@pytest.mark.parametrize("source", sorted({*SOURCES} - {*PORTABLE}), ids=lambda path: path.stem)
def test_machine_code_is_for_one_kind_of_card(source):
    code = cuda.code(source.stem, "any")
    (flags,) = struct.unpack_from("<I", code, 48)  # e_flags of an ELF header
    assert code[:4] == b"\x7fELF"
    assert flags & 0xFF == 90


@pytest.mark.parametrize("itemsize", [2, 4])
@pytest.mark.parametrize("groups", [1, 4, 32])
def test_a_map_is_divided_into_what_the_kernels_for_hopper_take(groups, itemsize):
    wide, seen = 16 // itemsize, set()
    for batch, rows, channels in itertools.product(BATCHES, ROWS, CHANNELS):
        division = group_norm_hopper.divide(batch, rows, channels, groups, itemsize, 132)
        if division is None:
            continue
        blocks, threads, slab, lanes, need, kept = division
        size, columns = channels // groups, slab // wide
        assert size >= wide
        assert slab % size == slab % wide == channels % slab == 0
        assert columns <= group_norm_hopper._MOST_COLUMNS
        assert slab // size <= group_norm_hopper._MOST_GROUPS
        assert lanes * columns <= threads
        assert need * lanes * blocks >= rows
        assert 0 <= kept <= need
        sums = 16 * threads + 16 * group_norm_hopper._MOST_COLUMNS + 8 * blocks * group_norm_hopper._MOST_GROUPS
        assert sums + 16 * kept * columns * lanes <= group_norm_hopper._MEMORY[threads]
        seen.add((threads, blocks))
    assert seen <= set(DIVISIONS)


def test_every_kernel_for_hopper_is_used():
    divisions = [
        group_norm_hopper.divide(batch, rows, channels, 32, 2, 132)
        for batch, rows, channels in itertools.product(BATCHES, ROWS, CHANNELS)
    ]
    assert {(division.threads, division.blocks) for division in divisions if division} == set(DIVISIONS)


@pytest.mark.parametrize(
    ("source", "numbers"),
    [
        ("number.cuh", {"LOADS": cuda._MOVES}),
        ("hopper.cuh", {"MAP_BYTES": hopper.MAP_BYTES}),
        (
            "group_norm_sm90.cu",
            {"MOST_COLUMNS": group_norm_hopper._MOST_COLUMNS, "MOST_GROUPS": group_norm_hopper._MOST_GROUPS},
        ),
        (
            "conv_sm90a.cu",
            {
                "TILE_HEIGHT": fp32_hopper._HEIGHT,
                "TILE_WIDTH": fp32_hopper._WIDTH,
                "OUTPUTS": fp32_hopper._OUTPUTS,
                "DEPTH": fp32_hopper._DEPTH,
                "STAGES": fp32_hopper._STAGES,
            },
        ),
        (
            "linear_geglu_sm90a.cu",
            {
                "ROWS": geglu_hopper._ROWS,
                "COLUMNS": geglu_hopper._COLUMNS,
                "DEPTH": geglu_hopper._DEPTH,
                "STAGES": geglu_hopper._STAGES,
            },
        ),
    ],
)
def test_numbers_that_python_has_too_are_those_of_the_source(source, numbers):
    constants = re.findall(r"constexpr (?:int|unsigned) (.+?);", (NATIVE / source).read_text())
    found = dict(re.findall(r"(\w+) = (\d+)\b", ", ".join(constants)))
    assert {name: int(found[name]) for name in numbers} == numbers
