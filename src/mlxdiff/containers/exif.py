"""EXIF as far as texts go: written as other programs want it, read however they wrote it.

EXIF 2.3 and TIFF 6.0. Software, Make and Model are in the main directory, UserComment and MakerNote in the directory
that ExifIFD points to. What the texts mean is the business of metadata/.
"""

from __future__ import annotations

import struct
import unicodedata
from collections.abc import Iterator, Mapping

SOFTWARE, MAKE, MODEL, EXIF_IFD, MAKER_NOTE, USER_COMMENT = 0x0131, 0x010F, 0x0110, 0x8769, 0x927C, 0x9286
_ASCII, _LONG, _UNDEFINED = 2, 4, 7
_SIZES = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8}  # bytes of each TIFF type
_MAX_ENTRIES = 1000
_UNICODE = b"UNICODE\0"
_CODES = {b"UNICODE": "unicode", b"ASCII": "ascii", b"JIS": "jis", b"": "unknown"}
_SAMPLE = 2048  # letters by which the byte order is judged


def write(texts: Mapping[str, str], maker: str | None = None) -> bytes:
    """An Exif segment with `parameters` as UserComment and `Software`; the text called `maker` is the MakerNote.

    Big-endian throughout, and UserComment of type UNDEFINED in UTF-16, as A1111 writes it: piexif, which A1111 and
    other readers use, takes no other type.
    """
    inner = []
    if maker is not None:
        inner.append((MAKER_NOTE, _UNDEFINED, maker.encode() + b"\0" + texts[maker].encode()))
    if "parameters" in texts:
        inner.append((USER_COMMENT, _UNDEFINED, _UNICODE + texts["parameters"].encode("utf-16-be")))
    outer = []
    if "Software" in texts:
        outer.append((SOFTWARE, _ASCII, texts["Software"].encode("ascii", "replace") + b"\0"))
    outer.append((EXIF_IFD, _LONG, bytes(4)))
    start = 8 + len(_directory(outer, 8))
    outer[-1] = (EXIF_IFD, _LONG, struct.pack(">I", start))
    return b"Exif\0\0MM\0*" + struct.pack(">I", 8) + _directory(outer, 8) + _directory(inner, start)


def read(data: bytes) -> dict[str, str]:
    """The texts in an Exif segment, or in the TIFF in it, by the names that PNG files give them.

    `parameters` is the UserComment; `prompt` and `workflow` are what ComfyUI keeps in Model and Make; a MakerNote
    `name NUL text` is a text of that name. What is damaged is left out.
    """
    tiff = data[6:] if data[:6] in (b"Exif\0\0", b"Exif\0\xff") else data
    order = {b"II*\0": "<", b"MM\0*": ">"}.get(tiff[:4])
    if order is None or len(tiff) < 8:
        return {}
    found: dict[str, str] = {}
    for tag, value in _entries(tiff, struct.unpack_from(f"{order}I", tiff, 4)[0], order):
        if tag == EXIF_IFD and len(value) == 4:
            found |= _inner(tiff, struct.unpack(f"{order}I", value)[0], order)
        elif tag == SOFTWARE:
            found["Software"] = _plain(value)
        elif tag in (MAKE, MODEL):
            name, colon, text = _plain(value).partition(":")
            if colon and name.lower() in ("prompt", "workflow"):
                found[name.lower()] = text
            elif tag == MODEL and name.startswith("{"):
                found.setdefault("parameters", _plain(value))  # SwarmUI before 2024
    return found


def user_comment(data: bytes) -> str:
    """The text of a UserComment: eight bytes name its character code, and programs put others behind them.

    EXIF leaves the byte order of UNICODE open and most write no mark of it. Big-endian is usual; the other one shows
    by what the letters are then.
    """
    code = _CODES.get(data[:8].rstrip(b"\0 ").upper()) if len(data) >= 8 else None
    rest = data if code is None else data[8:]
    if rest.startswith((b"\xfe\xff", b"\xff\xfe")):
        text = rest.decode("utf-16", "replace")
    elif b"\0" in rest.rstrip(b"\0") or (code == "unicode" and _as_utf8(rest) is None):
        text = _utf16(rest[: len(rest) // 2 * 2])
    elif code == "jis" and b"\x1b" in rest:
        text = rest.decode("iso2022_jp", "replace")
    elif (text := _as_utf8(rest)) is None:
        text = rest.decode("shift_jis" if code == "jis" else "latin-1", "replace")
    return text.removeprefix("\ufeff").rstrip("\0")


def _directory(entries: list[tuple[int, int, bytes]], start: int) -> bytes:
    """A directory at `start` with its values behind it; the tags rise."""
    table, values = struct.pack(">H", len(entries)), b""
    behind = start + 2 + 12 * len(entries) + 4
    for tag, kind, value in entries:
        count = len(value) // _SIZES[kind]
        if len(value) > 4:
            place = struct.pack(">I", behind + len(values))
            values += value + b"\0" * (len(value) % 2)
        else:
            place = value.ljust(4, b"\0")
        table += struct.pack(">HHI", tag, kind, count) + place
    return table + bytes(4) + values


def _entries(tiff: bytes, start: int, order: str) -> Iterator[tuple[int, bytes]]:
    if start + 2 > len(tiff):
        return
    (count,) = struct.unpack_from(f"{order}H", tiff, start)
    for i in range(min(count, _MAX_ENTRIES)):
        at = start + 2 + 12 * i
        if at + 12 > len(tiff):
            return
        tag, kind, length = struct.unpack_from(f"{order}HHI", tiff, at)
        size = _SIZES.get(kind, 0) * length
        place = at + 8 if size <= 4 else struct.unpack_from(f"{order}I", tiff, at + 8)[0]
        if size and place + size <= len(tiff):
            yield tag, tiff[place : place + size]


def _inner(tiff: bytes, start: int, order: str) -> dict[str, str]:
    found = {}
    for tag, value in _entries(tiff, start, order):
        if tag == USER_COMMENT and (comment := user_comment(value)).strip():
            found["parameters"] = comment
        elif tag == MAKER_NOTE:
            name, nul, text = value.partition(b"\0")
            if nul and name.startswith(b"mlxdiff"):
                found[name.decode("latin-1")] = text.decode("utf-8", "replace")
            elif not nul or not text.strip(b"\0"):
                found["maker"] = name.decode("utf-8", "replace")  # Fooocus says which of its forms the comment has
    return found


def _plain(value: bytes) -> str:
    return value.rstrip(b"\0").decode("utf-8", "replace")


def _as_utf8(data: bytes) -> str | None:
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError:
        return None


def _utf16(data: bytes) -> str:
    big, little = (data.decode(f"utf-16-{order}", "replace") for order in ("be", "le"))
    if ("Steps:" in big) != ("Steps:" in little):  # a word that most of these texts have
        return little if "Steps:" in little else big
    return little if _strangeness(little[:_SAMPLE]) < _strangeness(big[:_SAMPLE]) else big


def _strangeness(text: str) -> float:
    """How unlike a text these letters are: unassigned ones count most, then those beyond Latin."""
    strange = sum(unicodedata.category(letter) in ("Cn", "Co", "Cs") or letter == "\ufffd" for letter in text)
    foreign = sum(ord(letter) > 0x24F for letter in text)
    controls = sum(ord(letter) < 32 and letter not in "\n\r\t\0" for letter in text)
    return 4 * (strange + controls) + foreign
