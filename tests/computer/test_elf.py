"""Jump tables of small libraries, built here in each way that a linker lays them out."""

from __future__ import annotations

import ctypes
import mmap
import shutil
import subprocess
from pathlib import Path

import pytest

from mlxdiff.computer import elf

pytestmark = [
    pytest.mark.skipif(not elf.supported(), reason="no jump table of a known kind here"),
    pytest.mark.skipif(shutil.which("gcc") is None, reason="needs gcc to build a library"),
]

CALLEE = "int probe_plus(int x) { return x + 1; }"
CALLER = """
extern int probe_plus(int);
int probe_own(int x) { return 10 * x; }
int probe_call(int x) { return probe_own(probe_plus(x)); }
"""
LAYOUTS = {
    "lazy": ["-Wl,-z,lazy", "-Wl,-z,norelro"],
    "partly sealed": ["-Wl,-z,lazy", "-Wl,-z,relro"],
    "sealed": ["-Wl,-z,now", "-Wl,-z,relro"],
    "without a procedure linkage table": ["-fno-plt", "-Wl,-z,now", "-Wl,-z,relro"],
}


def build(folder: Path, name: str, source: str, *options: str) -> Path:
    (folder / f"{name}.c").write_text(source)
    library = folder / f"lib{name}.so"
    command = ["gcc", "-shared", "-fPIC", "-O1", "-o", str(library), str(folder / f"{name}.c"), *options]
    subprocess.run(command, check=True)
    return library


@pytest.fixture(scope="module", params=LAYOUTS)
def caller(request, tmp_path_factory) -> ctypes.CDLL:
    folder = tmp_path_factory.mktemp("elf")
    name = request.param.replace(" ", "_")  # libraries of one name would be one library to the loader
    build(folder, f"callee_{name}", CALLEE)
    link = ["-L", str(folder), f"-lcallee_{name}", f"-Wl,-rpath,{folder}"]
    return ctypes.CDLL(str(build(folder, f"caller_{name}", CALLER, *LAYOUTS[request.param], *link)))


def page(slot: elf.Slot) -> int:
    return slot.address & -mmap.PAGESIZE


def test_a_call_is_found_and_sent_elsewhere(caller):
    (slot,) = elf.imported_slots(caller, lambda name: name.startswith("probe_"))
    assert slot.name == "probe_plus"
    assert caller.probe_call(4) == 50
    callee = elf.library_of(slot.target)  # bound by the call above, even where binding is lazy
    assert callee is not None
    assert Path(callee).name.startswith("libcallee_")
    before, old = elf._protections({page(slot)}), slot.target

    instead = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_int)(lambda x: x - 1)
    address = ctypes.cast(instead, ctypes.c_void_p).value
    assert address is not None
    elf.redirect({slot: address})
    try:
        assert slot.target == address
        assert caller.probe_call(4) == 30
        assert elf._protections({page(slot)}) == before
    finally:
        elf.redirect({slot: old})
    assert caller.probe_call(4) == 50


@pytest.mark.parametrize("caller", ["sealed", "without a procedure linkage table"], indirect=True)
def test_the_sealed_tables_are_sealed(caller):
    """Otherwise nothing above would show that a seal is opened and closed."""
    (slot,) = elf.imported_slots(caller, lambda name: name == "probe_plus")
    assert set(elf._protections({page(slot)}).values()) == {mmap.PROT_READ}


def test_only_what_is_wanted_and_not_the_library_s_own(caller):
    names = {slot.name for slot in elf.imported_slots(caller, lambda _: True)}
    assert "probe_plus" in names
    assert "probe_own" not in names
    assert elf.imported_slots(caller, lambda _: False) == []


def test_a_refusal_changes_nothing(caller, monkeypatch):
    (slot,) = elf.imported_slots(caller, lambda name: name == "probe_plus")
    before = slot.target

    def refuse(*_):
        raise PermissionError("no")

    monkeypatch.setattr(elf, "_protections", lambda pages: dict.fromkeys(pages, mmap.PROT_READ))
    monkeypatch.setattr(elf, "_protect", refuse)
    with pytest.raises(PermissionError):
        elf.redirect({slot: 0})
    assert slot.target == before


def test_mprotect_reports_what_the_kernel_says():
    with pytest.raises(OSError, match="Cannot allocate memory"):
        elf._protect(0x1000, mmap.PROT_READ)  # below anything a process may map


def test_protection_of_memory_that_is_not_mapped():
    with pytest.raises(OSError, match="does not list"):
        elf._protections({0x1000})


def test_loaded_loads_nothing(tmp_path):
    library = build(tmp_path, "never_loaded", CALLEE)
    assert elf.loaded(str(library)) is None
    assert elf.loaded("libnosuchthing.so") is None
    handle = ctypes.CDLL(str(library))
    again = elf.loaded(str(library))
    assert again is not None
    assert again._handle == handle._handle


def test_code_that_belongs_to_no_library():
    memory = mmap.mmap(-1, mmap.PAGESIZE)
    address = ctypes.addressof(ctypes.c_char.from_buffer(memory))
    assert elf.library_of(address) is None
