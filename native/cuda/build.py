"""Compiles the kernels beside it for mlxdiff to ship: CUDA's driver then needs no compiler and no second.

MLX would compile a kernel's source anew in every process, for two seconds each. PTX of CUDA 12.0 for compute
capability 7.5 is what the oldest driver and the oldest card that MLX supports understand. A source named `..._sm90.cu`
or `..._sm90a.cu` is for compute capability 9.0 alone, and becomes machine code, of which nothing is left to compile. No
GPU is needed, but a folder in which each version of `COMPILERS` is unpacked in a folder of that name:

    pip download --no-deps nvidia-cuda-nvrtc-cu12==12.0.140 nvidia-cuda-runtime-cu12==12.0.146
    pip download --no-deps nvidia-cuda-nvrtc-cu12==12.4.127 nvidia-cuda-runtime-cu12==12.4.127

    python native/cuda/build.py FOLDER [--check]
"""

from __future__ import annotations

import argparse
import ctypes
import gzip
import hashlib
import re
import sys
from pathlib import Path

HERE = Path(__file__).parent
OUTPUT = HERE.parents[1] / "src" / "mlxdiff" / "assets" / "cuda"
COMPILERS = {"75": "12.0", "90": "12.0", "90a": "12.4"}
"""The version of CUDA that compiles for each compute capability: the oldest that can."""


def architecture(source: Path) -> str:
    """The compute capability that a source is for, without its point."""
    named = re.search(r"_sm(\w+)$", source.stem)
    return named[1] if named else "75"


def output(source: Path) -> Path:
    """Where what a source is compiled to is kept."""
    return OUTPUT / f"{source.stem}.{'ptx' if _is_portable(source) else 'cubin'}.gz"


def compiled(source: Path, tools: Path) -> bytes:
    """PTX or machine code of one source, below a line that says which sources it is made of."""
    tools = tools / COMPILERS[architecture(source)]
    nvrtc = ctypes.CDLL(str(next(tools.rglob("libnvrtc.so.*"))))
    includes = [f"--include-path={folder}".encode() for folder in (HERE, next(tools.rglob("cuda_fp16.h")).parent)]
    program = ctypes.c_void_p()
    text, name = source.read_bytes(), source.name.encode()
    assert nvrtc.nvrtcCreateProgram(ctypes.byref(program), text, name, 0, None, None) == 0
    options = (*_options(source), *includes)
    if nvrtc.nvrtcCompileProgram(program, len(options), (ctypes.c_char_p * len(options))(*options)) != 0:
        sys.exit(_got(nvrtc.nvrtcGetProgramLogSize, nvrtc.nvrtcGetProgramLog, program).decode())
    head = f"// {fingerprint(source)}\n".encode()
    if not _is_portable(source):
        return head + _got(nvrtc.nvrtcGetCUBINSize, nvrtc.nvrtcGetCUBIN, program)
    ptx = _got(nvrtc.nvrtcGetPTXSize, nvrtc.nvrtcGetPTX, program).rstrip(b"\0").decode()
    # Comments go, and the tables of architectures that every source with half precision gets.
    lines = [line for line in ptx.splitlines() if line.strip() and not line.lstrip().startswith(("//", ".global"))]
    return head + "\n".join([*lines, ""]).encode()


def fingerprint(source: Path) -> str:
    """SHA-256 of a source, of what it includes and of the options."""
    text = source.read_text(encoding="utf-8")
    included = [(HERE / name).read_bytes() for name in re.findall(r'#include "(.+)"', text)]
    parts = text.encode(), *included, *_options(source)
    return hashlib.sha256(b" ".join(parts)).hexdigest()


def _options(source: Path) -> tuple[bytes, ...]:
    code = "compute" if _is_portable(source) else "sm"
    return f"--gpu-architecture={code}_{architecture(source)}".encode(), b"--std=c++17", b"--restrict"


def _is_portable(source: Path) -> bool:
    return architecture(source) == "75"


def _got(size_of, get, program: ctypes.c_void_p) -> bytes:
    size = ctypes.c_size_t()
    assert size_of(program, ctypes.byref(size)) == 0
    buffer = ctypes.create_string_buffer(size.value)
    assert get(program, buffer) == 0
    return buffer.raw


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("tools", type=Path)
    parser.add_argument("--check", action="store_true", help="only say whether what is there is what would be written")
    options = parser.parse_args()
    for source in sorted(HERE.glob("*.cu")):
        code, file = compiled(source, options.tools), output(source)
        if options.check:
            if not file.is_file() or gzip.decompress(file.read_bytes()) != code:
                sys.exit(f"{file.name} is not what {source.name} compiles to.")
        else:
            OUTPUT.mkdir(exist_ok=True)
            file.write_bytes(gzip.compress(code, mtime=0))


if __name__ == "__main__":
    main()
