"""The jump table of a loaded ELF library: which functions it calls elsewhere, and where each call lands.

A shared library reaches a function of another one through a slot that the dynamic loader fills with an address. The
slots are listed in the library's relocations: JUMP_SLOT (the procedure linkage table) and GLOB_DAT (code built with
-fno-plt). Here they are found in memory, through `dlinfo`, and pointed elsewhere. Nothing is known about BLAS.

GNU/Linux and musl, 64 bits, little endian: x86_64 and aarch64. See the System V ABI, chapter 5, and the processor
supplements.
"""

from __future__ import annotations

import ctypes
import mmap
import os
import platform
import struct
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass

# Relocation types (JUMP_SLOT, GLOB_DAT) of each processor.
RELOCATIONS = {"x86_64": (7, 6), "aarch64": (1026, 1025)}

_DT_PLTRELSZ, _DT_STRTAB, _DT_SYMTAB, _DT_RELA, _DT_RELASZ, _DT_PLTREL, _DT_JMPREL = 2, 5, 6, 7, 8, 20, 23
_DYN, _RELA, _SYM = struct.Struct("<qQ"), struct.Struct("<QQq"), struct.Struct("<IBBHQQ")
_RTLD_DI_LINKMAP = 2


@dataclass(frozen=True)
class Slot:
    """One entry of a jump table: the name of the function, and the address that holds the function's address."""

    name: str
    address: int

    @property
    def target(self) -> int:
        return ctypes.c_uint64.from_address(self.address).value


class _LinkMap(ctypes.Structure):
    _fields_ = (("base", ctypes.c_size_t), ("name", ctypes.c_char_p), ("dynamic", ctypes.c_size_t))


class _DlInfo(ctypes.Structure):
    _fields_ = (
        ("file", ctypes.c_char_p),
        ("base", ctypes.c_void_p),
        ("symbol", ctypes.c_char_p),
        ("address", ctypes.c_void_p),
    )


def supported() -> bool:
    """Whether this process has the jump tables that this module understands."""
    return (
        sys.platform == "linux"
        and sys.byteorder == "little"
        and ctypes.sizeof(ctypes.c_void_p) == 8
        and platform.machine() in RELOCATIONS
    )


def loaded(name: str) -> ctypes.CDLL | None:
    """The library of this path or soname if the process has it already, else None; nothing is loaded."""
    try:
        return ctypes.CDLL(name, mode=os.RTLD_NOLOAD | os.RTLD_NOW)
    except OSError:
        return None


def library_of(address: int) -> str | None:
    """Path of the library that holds the code at `address`, or None."""
    info = _DlInfo()
    if not _process().dladdr(ctypes.c_void_p(address), ctypes.byref(info)) or not info.file:
        return None
    return os.fsdecode(info.file)


def imported_slots(library: ctypes.CDLL, wanted: Callable[[str], bool]) -> list[Slot]:
    """Slots of a loaded `library` for functions that it does not define itself and whose name is `wanted`."""
    return [slot for slot, own in _slots(library) if not own and wanted(slot.name)]


def own_slots(library: ctypes.CDLL, name: str) -> list[Slot]:
    """Slots through which a loaded `library` calls a function `name` of its own, since others might replace it."""
    return [slot for slot, own in _slots(library) if own and slot.name == name]


def _slots(library: ctypes.CDLL) -> Iterator[tuple[Slot, bool]]:
    """The slots of a loaded library, and whether the function is its own."""
    base, dynamic = _link_map(library)

    def address(tag: int) -> int:
        # glibc writes absolute addresses into the dynamic section, musl leaves the offsets of the file.
        value = dynamic[tag]
        return value if value >= base else base + value

    if _DT_STRTAB not in dynamic or _DT_SYMTAB not in dynamic:
        return
    strings, symbols = address(_DT_STRTAB), address(_DT_SYMTAB)
    tables = []
    if dynamic.get(_DT_PLTREL) == _DT_RELA and _DT_JMPREL in dynamic:
        tables.append((address(_DT_JMPREL), dynamic.get(_DT_PLTRELSZ, 0)))
    if _DT_RELA in dynamic:
        tables.append((address(_DT_RELA), dynamic.get(_DT_RELASZ, 0)))

    kinds = RELOCATIONS[platform.machine()]
    found: set[int] = set()
    for table, size in tables:
        for offset, info, _ in _RELA.iter_unpack(ctypes.string_at(table, size - size % _RELA.size)):
            if info & 0xFFFFFFFF not in kinds or base + offset in found:
                continue
            found.add(base + offset)
            name, _, _, section, _, _ = _SYM.unpack(ctypes.string_at(symbols + _SYM.size * (info >> 32), _SYM.size))
            text = ctypes.string_at(strings + name).decode("ascii", "replace")
            yield Slot(text, base + offset), section != 0


def redirect(targets: Mapping[Slot, int]) -> None:
    """Points each slot at a function's address; OSError, with nothing changed, when memory cannot be made writable.

    A page that the loader sealed after relocation (RELRO) is opened for the store and sealed again. One store is one
    aligned word, so that another thread calls either the old function or the new one.
    """
    # A slot is one aligned word, so it never straddles two pages, whatever their size (4 to 64 KiB).
    pages = {slot.address & -mmap.PAGESIZE for slot in targets}
    with ExitStack() as seals:
        for page, protection in _protections(pages).items():
            if not protection & mmap.PROT_WRITE:
                _protect(page, protection | mmap.PROT_WRITE)
                seals.callback(_protect, page, protection)
        for slot, function in targets.items():
            ctypes.c_uint64.from_address(slot.address).value = function


def _process() -> ctypes.CDLL:
    return ctypes.CDLL(None, use_errno=True)


def _link_map(library: ctypes.CDLL) -> tuple[int, dict[int, int]]:
    """Load address and dynamic section of a library.

    `dl_iterate_phdr` would do as well, but it calls back into Python while it holds the loader's lock: a deadlock with
    a thread that waits for that lock while it holds the interpreter's.
    """
    pointer = ctypes.POINTER(_LinkMap)()
    if _process().dlinfo(ctypes.c_void_p(library._handle), _RTLD_DI_LINKMAP, ctypes.byref(pointer)) != 0:
        raise OSError(f"dlinfo knows no link map of {library._name}")
    link_map = pointer.contents
    return link_map.base, dict(_dynamic_entries(link_map.dynamic))


def _dynamic_entries(address: int) -> Iterator[tuple[int, int]]:
    while True:
        tag, value = _DYN.unpack(ctypes.string_at(address, _DYN.size))
        if tag == 0:
            return
        yield tag, value
        address += _DYN.size


def _protections(pages: set[int]) -> dict[int, int]:
    """The mmap.PROT_* bits of each page; OSError when the kernel does not tell."""
    found: dict[int, int] = {}
    with open("/proc/self/maps", encoding="utf-8", errors="replace") as maps:
        for line in maps:
            span, letters = line.split(maxsplit=2)[:2]
            start, end = (int(part, 16) for part in span.split("-"))
            bits = zip(letters, (mmap.PROT_READ, mmap.PROT_WRITE, mmap.PROT_EXEC), strict=False)
            protection = sum(bit for letter, bit in bits if letter != "-")
            found.update({page: protection for page in pages if start <= page < end})
    if pages - found.keys():
        raise OSError("/proc/self/maps does not list the jump table")
    return found


def _protect(page: int, protection: int) -> None:
    process = _process()
    if process.mprotect(ctypes.c_void_p(page), ctypes.c_size_t(mmap.PAGESIZE), protection) != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), "mprotect")
