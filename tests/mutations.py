"""Hostile versions of a checkpoint's files, each drawn from a seed: the same seed gives the same bytes.

Knows files as bytes; it knows nothing of mlxdiff. `mutate(name, content, rng)` picks a way that suits the kind of file.
"""

from __future__ import annotations

import json
import random
import struct
from collections.abc import Callable
from typing import Any

NUMBERS: tuple[Any, ...] = (
    *(0, 1, -1, 2, 3, 7, 16, 99, 0.5, -0.0, 1e-300, 1e308, -1e308, 1000, 65536, 100_000, 999_999, 1_000_000),
    *(2**31 - 1, 2**31, 2**32, 2**53 + 1, 2**63 - 1, 2**63, 2**64, -(2**63), 10**40, 10**400),
    *(float("nan"), float("inf"), float("-inf")),
)
TEXTS = (
    *("", " ", "\0", "a\0b", "x" * 10_000, "\ud800", "\U0001f600", "́" * 50, "İ", "%s%n{0}", "(a+)+$", "[", "\\"),
    *("../../x", "/etc/passwd", "..\\..\\x", "C:\\x", "file:///etc/passwd", "unet/../../x", ".", "..", "~root/x"),
    *("model.safetensors", "../model.safetensors", "/dev/zero", "F8_E4M3", "F64", "I64", "BOOL", "U32", "F16", "C64"),
    *("epsilon", "karras", "true", "1", "nan", "None", "<|endoftext|>", "!", "</w>", "__class__", "$ref"),
)
OTHERS: tuple[Any, ...] = (None, True, False, [], {}, [[]], [None], [0], [{}], {"": None}, {"content": "x"})


def nested(depth: int, *, mapping: bool = False) -> Any:
    """A list in a list, or an object in an object, so deep."""
    value: Any = 0
    for _ in range(depth):
        value = {"a": value} if mapping else [value]
    return value


def hostile(rng: random.Random) -> Any:
    """A value that a config should not have, or not there."""
    kind = rng.randrange(10)
    if kind < 4:
        return rng.choice(NUMBERS)
    if kind < 7:
        return rng.choice(TEXTS)
    if kind < 8:
        return rng.choice(OTHERS)
    if kind < 9:
        return [rng.choice((*NUMBERS, *TEXTS)) for _ in range(rng.choice((1, 2, 3, 4, 17, 1000)))]
    return nested(rng.choice((2, 10, 400)), mapping=rng.random() < 0.5)


def nodes(value: Any, limit: int = 20_000) -> list[tuple[Any, Any]]:
    """(container, key) of everything inside a JSON value."""
    found, waiting = [], [value]
    while waiting and len(found) < limit:
        container = waiting.pop()
        keys = list(container) if isinstance(container, dict) else range(len(container))
        for key in keys:
            found.append((container, key))
            if isinstance(container[key], dict | list):
                waiting.append(container[key])
    return found


def change_value(value: Any, rng: random.Random) -> Any:
    """One change inside a JSON value: replaced, removed, renamed, copied over, swapped, multiplied, nested."""
    places = nodes(value)
    if not places:
        return hostile(rng)
    # Shallow places are few and matter most: half of the draws are among the first.
    container, key = rng.choice(places[: len(value)] if rng.random() < 0.5 else places)
    match rng.randrange(9):
        case 0 | 1 | 2:
            container[key] = hostile(rng)
        case 3:
            del container[key]
        case 4 if isinstance(container, dict):
            container[rng.choice((*TEXTS, str(key).upper(), f"{key} ", f"{key}.0"))] = container.pop(key)
        case 5:
            other, where = rng.choice(places)
            container[key], other[where] = json.loads(json.dumps(other[where])), json.loads(json.dumps(container[key]))
        case 6:
            container[key] = [container[key]] * rng.choice((1, 2, 3, 30))
        case 7 if isinstance(container[key], int | float):
            container[key] = container[key] * rng.choice((-1, 0, 2, 0.5, 10, 1000))
        case 7 if isinstance(container[key], list):
            container[key] = rng.sample(container[key], len(container[key])) + container[key][: rng.randrange(3)]
        case _ if isinstance(container, dict):
            container[rng.choice(TEXTS)] = hostile(rng)
        case _:
            container.insert(key, hostile(rng))
    return value


def change_json(content: bytes, rng: random.Random) -> bytes:
    """Some changes of the values, and now and then one of the text that no JSON writer would make."""
    value = json.loads(content)
    for _ in range(rng.choice((1, 1, 1, 2, 5))):
        if not isinstance(value, dict | list):
            break
        value = change_value(value, rng)
    text = json.dumps(value)
    match rng.randrange(12):
        case 0:  # a key twice
            text = text.replace("{", '{"_class_name": 3, "vocab": {}, ', 1).replace("}", ', "a": 1, "a": 2}', 1)
        case 1:
            depth = rng.choice((500, 5_000, 200_000))
            text = text.replace(": ", f': {"[" * depth}{"]" * depth}, "x": ', 1)
        case 2:
            text = text.replace(" 1", f" {'9' * rng.choice((400, 5000, 100_000))}", 1)
    return text.encode("utf-8", "surrogatepass")


def change_bytes(content: bytes, rng: random.Random) -> bytes:
    """Damage that knows no format: bits, holes, insertions, the file cut or grown."""
    data = bytearray(content)
    where = rng.randrange(len(data) + 1)
    match rng.randrange(9):
        case 0 | 1:
            for _ in range(rng.choice((1, 1, 2, 30))):
                data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
        case 2:
            del data[where:]
        case 3:
            del data[where : where + rng.choice((1, 8, 1000))]
        case 4:
            data[where:where] = rng.randbytes(rng.choice((1, 8, 1000)))
        case 5:
            data[where : where + 16] = rng.randbytes(16)
        case 6:
            data += rng.choice((b"\0", b"}", b"\xff\xfe", b" " * 4096, bytes(data[:100])))
        case 7:
            data[:0] = rng.choice((b"\xef\xbb\xbf", b"\xff\xfe", b"\0" * 8, b"[" * 100_000, b" " * 10_000))
        case _:
            return rng.choice((b"", b" ", b"null", b"[]", b"{}", b'"x"', b"NaN", b"\0", b"[" * 200_000, b"\x80\x04K."))
    return bytes(data)


def change_lines(content: bytes, rng: random.Random) -> bytes:
    """A text file with lines lost, doubled, swapped, joined, or of other characters."""
    lines = content.split(b"\n")
    i, j = rng.randrange(len(lines)), rng.randrange(len(lines))
    match rng.randrange(7):
        case 0:
            del lines[i : i + rng.choice((1, 10, len(lines)))]
        case 1:
            lines[i:i] = [lines[j]] * rng.choice((1, 2, 1000))
        case 2:
            lines[i], lines[j] = lines[j], lines[i]
        case 3:
            lines[i] = lines[i].replace(b" ", rng.choice((b"", b"  ", b"\t", b"\xc2\xa0", b"\0")))
        case 4:
            lines[i] = b" ".join(text.encode("utf-8", "surrogatepass") for text in rng.sample(TEXTS, 2))
        case 5:
            return content.replace(b"\n", rng.choice((b"\r\n", b"\r", b"\n\n", b" ")))
        case _:
            lines[i] += b"x" * rng.choice((1, 1_000_000))
    return b"\n".join(lines)


def change_safetensors(content: bytes, rng: random.Random) -> bytes:
    """A safetensors file whose header lies, or whose body is not what the header says."""
    (length,) = struct.unpack("<Q", content[:8])
    body = content[8 + length :]
    if rng.random() < 0.1:
        claims = (0, 1, 2, length - 1, length + 1, len(content), 2**31, 2**32, 2**40, 2**63, 2**64 - 1)
        return struct.pack("<Q", rng.choice(claims)) + content[8:]
    if rng.random() < 0.15:
        header = change_bytes(content[8 : 8 + length], rng)
    elif rng.random() < 0.2:
        header = change_json(content[8 : 8 + length], rng)
    else:
        entries = json.loads(content[8 : 8 + length])
        for _ in range(rng.choice((1, 1, 1, 3))):
            _change_entry(entries, rng, len(body))
        header = json.dumps(entries).encode("utf-8", "surrogatepass")
        header += b" " * (-len(header) % 8)
        if rng.random() < 0.05:  # one name twice
            header = header.rstrip().removesuffix(b"}") + b"," + header.strip().removeprefix(b"{")
    if rng.random() < 0.1:
        body = change_bytes(body, rng)
    return struct.pack("<Q", len(header)) + header + body


def _change_entry(entries: dict[str, Any], rng: random.Random, size: int) -> None:
    names = [name for name in entries if isinstance(entries[name], dict) and "shape" in entries[name]]
    if len(names) < 2:
        return
    name, other = rng.sample(names, 2)
    entry = entries[name]
    shape = entry["shape"]
    match rng.randrange(12):
        case 0:
            entry["shape"] = shape[::-1]
        case 1:
            entry["shape"] = rng.choice(
                ([], [0], [2**32, 2**32], [2**40], [2**63], [-1], [1.5], ["8"], [1] * 100, None)
            )
        case 2:
            entry["shape"] = [int(rng.choice((0, 1, -1, 2**31, 2**62))) for _ in shape]
        case 3:
            entry["dtype"] = rng.choice(
                ("F16", "F32", "BF16", "F64", "I64", "U32", "U8", "BOOL", "F8_E5M2", "", "x", 7)
            )
        case 4:
            entry["data_offsets"] = list(entries[other]["data_offsets"])
        case 5:
            start, end = entry["data_offsets"]
            step = rng.choice((1, 2, -2, size, 2**40, 2**63))
            entry["data_offsets"] = [start + rng.choice((0, step)), end + step]
        case 6:
            entry["data_offsets"] = rng.choice(
                ([], [0], [size, 0], [-1, 1], [0, 2**64], ["0", "1"], [0.0, 2.0], None, [0] * 3)
            )
        case 7:
            del entries[name]
        case 8:
            entries[rng.choice((*TEXTS, f"{name}.x", f"text_model.{name}", name.replace("weight", "bias")))] = (
                entries.pop(name)
            )
        case 9:
            entries[name], entries[other] = entries[other], entries[name]
        case 10:
            entries["__metadata__"] = hostile(rng)
        case _:
            entry[rng.choice(("shape", "dtype", "data_offsets", "x"))] = hostile(rng)


def mutate(name: str, content: bytes, rng: random.Random) -> bytes:
    """The file `name` with one mutation that suits its kind, or in one case of six, one that knows none."""
    kinds: dict[str, Callable[[bytes, random.Random], bytes]] = {
        "json": change_json,
        "txt": change_lines,
        "safetensors": change_safetensors,
    }
    change = kinds[name.rpartition(".")[2]] if rng.random() < 5 / 6 else change_bytes
    return change(content, rng)
