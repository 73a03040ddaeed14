"""Bodies as an attacker writes them: each ends in an answer that says what is wrong, and the server goes on."""

from __future__ import annotations

import io
import json
import struct
import zlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from server_client import base64_of, bytes_of, form

from mlxdiff.server.a1111_payload import fields
from mlxdiff.server.openai import settings as openai_settings

GENERATIONS, TXT2IMG, IMG2IMG = "/v1/images/generations", "/sdapi/v1/txt2img", "/sdapi/v1/img2img"
NOISE = Image.fromarray(np.random.default_rng(0).integers(0, 256, (24, 24), np.uint8))
MODEST = {"prompt": "x", "steps": 2, "width": 16, "height": 16}
NAMES = [
    *fields(),
    "prompt",
    "negative_prompt",
    "n",
    "size",
    "n_iter",
    "batch_size",
    "enable_hr",
    "init_images",
    "mask",
]
NAMES += [
    "override_settings",
    "hr_resize_x",
    "mask_blur_x",
    "response_format",
    "model",
    "seed_resize_from_w",
    "hr_scale",
]
scalars = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(2**70), 2**70),
    st.integers(-3, 20),
    st.floats(allow_nan=False, allow_infinity=False),
    st.text(max_size=20),
    st.sampled_from(
        ["", "None", "Automatic", "Euler a", "NaN", "1e999", "../x", "a\0b", "\ud800", "0x10", "[1]", "{}"]
    ),
)
values = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)


@settings(max_examples=150)
@given(st.sampled_from([GENERATIONS, TXT2IMG, IMG2IMG]), st.data())
def test_any_values_of_known_fields(server, path, data):
    names = st.sampled_from(NAMES if path != GENERATIONS else [*sorted(openai_settings()), *NAMES])
    asked = data.draw(st.dictionaries(names, values, max_size=5))
    status, answer = server.post(path, {**MODEST, **asked})
    assert status in (200, 400, 404, 422), (asked, answer)
    assert isinstance(answer, dict)


@settings(max_examples=60)
@given(
    st.one_of(
        st.binary(max_size=60), st.text(max_size=60).map(str.encode), values.map(lambda v: json.dumps(v).encode())
    )
)
def test_any_body(server, body):
    for path in (GENERATIONS, TXT2IMG):
        assert server.post(path, body)[0] in (200, 400, 422)


@pytest.mark.parametrize(
    "body",
    [
        b"[" * 100_000,
        b'{"a":' * 100_000,
        b'{"prompt":"x","seed":' + b"9" * 500_000 + b"}",
        b'{"prompt":"x","steps":NaN}',
        b'{"prompt":"x","steps":Infinity}',
        b'{"prompt":"x","cfg_scale":1e999}',
        b'{"prompt":"x","cfg_scale":0.' + b"1" * 500_000 + b"}",
        b'{"prompt":"x","seed":[' + b"[]," * 200_000 + b"[]]}",
        b"{" + b",".join(b'"k%d":1' % i for i in range(5000)) + b"}",
        b'{"prompt":' + b"[" * 30 + b"]" * 30 + b"}",
        b'\xff\xfe{"prompt":"x"}',
        b"",
        b"null",
        b'"prompt"',
        b'{"prompt":"' + b"a" * 900_000 + b'"}',
        b'{"prompt":"' + b"[a:b:" * 3_000 + b'"}',
        b'{"prompt":"' + b"a AND " * 3_000 + b'"}',
        b'{"prompt":"x' + b"<lora:a:1>" * 1_500 + b'","steps":2}',
    ],
    ids=range(18),
)
def test_bodies_that_take_long_or_are_none(server, body):
    for path in (GENERATIONS, TXT2IMG):
        status, answer = server.post(path, body)
        assert status in (400, 422), answer
        assert len(json.dumps(answer)) < 2000


@pytest.mark.parametrize("depth", [30, 50_000])
def test_a_body_that_is_nested_too_deeply_is_told_so(server, depth):
    status, answer = server.post(GENERATIONS, b'{"prompt":' + b"[" * depth + b"]" * depth + b"}")
    assert (status, answer["error"]["message"]) == (400, "The body is nested more than 20 deep. Send it flatter.")


@pytest.mark.parametrize("compat", ["a1111", "comfyui", "diffusers"])
@pytest.mark.parametrize("strength", [5e-324, 1e-9])
def test_a_strength_next_to_nothing_is_rendered_or_refused_at_once(server, compat, strength):
    asked = {**MODEST, "init_images": [base64_of(NOISE)], "denoising_strength": strength, "compat": compat}
    status, answer = server.post(IMG2IMG, {**asked, "sampler_name": "Euler"})
    assert status == (200 if compat == "a1111" else 422), answer


def test_a_prompt_of_many_brackets_is_a_prompt(server):
    assert server.post(TXT2IMG, {**MODEST, "prompt": "(" * 19_000})[0] == 200
    assert server.post(GENERATIONS, {**MODEST, "sigmas": "1," * 9_000})[0] == 400
    _, answer = server.post(TXT2IMG, {**MODEST, "sigmas": "1," * 9_000})
    assert len(answer["warnings"][0]) < 300, "what is named is cut"


@pytest.mark.parametrize(
    ("asked", "words"),
    [
        ({"seed_resize": "60000x60000"}, "60000x60000"),
        ({"seed_resize": "264x256"}, "At most 65,536 pixels"),
        ({"compat": "comfyui", "batch_index": "0/100000"}, "at most 4 pictures"),
        ({"compat": "comfyui", "batch_index": "99999"}, "at most 4 pictures"),
    ],
)
def test_noise_of_what_is_not_drawn_is_bounded_too(server, asked, words):
    status, answer = server.post(GENERATIONS, {**MODEST, **asked})
    assert (status, words in answer["error"]["message"]) == (400, True), answer


def test_margins_are_bounded_before_a_picture_is_made_with_them(server):
    body, kind = form(image=bytes_of(NOISE), prompt="x", expand="3500,3500,3500,3500", size="32x32")
    status, answer, _ = server.ask("POST", "/v1/images/edits", body, {"Content-Type": kind})
    assert (status, "7024x7024" in answer["error"]["message"]) == (400, True), answer


def bomb(width: int, height: int) -> bytes:
    """A PNG of a few bytes that says it has so many pixels."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(bytes(1000))) + chunk(b"IEND", b"")
    )


def long_gif() -> bytes:
    stream = io.BytesIO()
    frames = [Image.new("L", (64, 64), i) for i in range(100)]
    frames[0].save(stream, "GIF", save_all=True, append_images=frames[1:])
    return stream.getvalue()


@pytest.mark.parametrize(
    ("data", "status"),
    [
        (bomb(65_000, 65_000), 400),
        (bomb(2**31 - 1, 2**31 - 1), 400),
        (bomb(0, 5), 400),
        (bomb(30, 30), 400),
        (bytes_of(Image.new("1", (16_384, 8_192))), 400),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", 400),
        (b"<svg xmlns='http://www.w3.org/2000/svg'/>", 400),
        (bytes_of(Image.new("RGB", (1, 1)))[:45], 400),
        (long_gif(), 200),
        (bytes_of(Image.new("RGB", (1, 3_000))), 200),
        (bytes_of(Image.new("I;16", (20, 20))), 200),
        (bytes_of(Image.new("LA", (20, 20))), 200),
    ],
    ids=range(12),
)
def test_pictures(server, data, status):
    import base64

    body, kind = form(image=data, prompt="x", steps="2")
    got, answer, _ = server.ask("POST", "/v1/images/edits", body, {"Content-Type": kind})
    assert got == status, answer
    asked = {**MODEST, "init_images": [base64.b64encode(data).decode()]}
    assert server.post(IMG2IMG, asked)[0] == (422 if status == 400 else 200)


@settings(max_examples=60)
@given(st.binary(max_size=200), st.sampled_from(["X", "B OUND", "a;b", '"', "=", "-" * 80]))
def test_any_form(server, body, boundary):
    for data in (
        body,
        b"--X\r\n" + body + b"\r\n--X--\r\n",
        b'--X\r\nContent-Disposition: form-data; name="a"\r\n\r\n' + body + b"\r\n--X--",
    ):
        kind = f"multipart/form-data; boundary={boundary}"
        assert server.ask("POST", "/v1/images/edits", data, {"Content-Type": kind})[0] in (400, 415)


def test_a_form_of_nothing_but_boundaries(server):
    body = b"--X" + b"\r\n--X" * 150_000
    status, answer, _ = server.ask(
        "POST", "/v1/images/edits", body, {"Content-Type": "multipart/form-data; boundary=X"}
    )
    assert (status, "more than 200 parts" in answer["error"]["message"]) == (400, True)


@settings(max_examples=40)
@given(st.data())
def test_damaged_pictures(server, data):
    whole = bytearray(bytes_of(NOISE, data.draw(st.sampled_from(["PNG", "JPEG", "WEBP", "GIF", "TIFF"]))))
    for _ in range(data.draw(st.integers(1, 5))):
        whole[data.draw(st.integers(0, len(whole) - 1))] = data.draw(st.integers(0, 255))
    body, kind = form(image=bytes(whole), prompt="x", steps="2")
    status, answer, _ = server.ask("POST", "/v1/images/edits", body, {"Content-Type": kind})
    assert status in (200, 400), answer


def test_the_server_is_none_the_worse(server):
    assert server.post(IMG2IMG, {**MODEST, "init_images": [base64_of(NOISE)]})[0] == 200
    assert not [line for line in server.said if "Traceback" in line]
