"""HTTP as bytes on a socket: what is no sound HTTP/1.1 is refused in words, and never read in two ways."""

from __future__ import annotations

import json
import re
import socket
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from patience import WAIT

from mlxdiff.server import connection

HOST = b"Host: localhost\r\n"
GET = b"GET /v1/models HTTP/1.1\r\n" + HOST
POST = b"POST /v1/images/generations HTTP/1.1\r\n" + HOST + b"Content-Type: application/json\r\n"
ALIVE = b"GET /sdapi/v1/progress HTTP/1.1\r\n" + HOST + b"Connection: close\r\n\r\n"


def statuses(answer: bytes) -> list[int]:
    return [int(code) for code in re.findall(rb"HTTP/1\.1 ([0-9]{3}) ", answer)]


@pytest.mark.parametrize(
    ("sent", "status"),
    [
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\r\n\r\n", 400),  # TLS
        (b"GET /\r\n\r\n", 400),  # HTTP/0.9
        (b"GET / HTTP/2.0\r\n\r\n", 505),
        (b"PRI * HTTP/2.0\r\n\r\n", 505),
        (b"GET  / HTTP/1.1\r\n" + HOST + b"\r\n", 400),
        (b"GET http://localhost/ HTTP/1.1\r\n" + HOST + b"\r\n", 400),
        (b"GET / HTTP/1.1\n" + HOST + b"\r\n", 400),
        (b"GET / HTTP/1.1\r\nHost: localhost\nX: 1\r\n\r\n", 400),
        (GET + b"X: a\r\n folded\r\n\r\n", 400),
        (GET + b"X : a\r\n\r\n", 400),
        (GET + b"X\r\n\r\n", 400),
        (GET + b"X: a\0b\r\n\r\n", 400),
        (GET + b"X: a\rContent-Length: 5\r\n\r\n", 400),
        (GET + HOST + b"\r\n", 400),
        (b"GET /v1/models HTTP/1.1\r\n\r\n", 400),
        (POST + b"Content-Length: 2\r\nContent-Length: 2\r\n\r\n{}", 400),
        (POST + b"Content-Length: +2\r\n\r\n{}", 400),
        (POST + b"Content-Length: 2, 2\r\n\r\n{}", 400),
        (POST + b"Content-Length: -2\r\n\r\n{}", 400),
        (POST + "Content-Length: \u00b2\r\n\r\n".encode("latin-1"), 400),
        (POST + b"Content-Length: " + b"9" * 40 + b"\r\n\r\n", 400),
        (POST + b"Content-Length: 999999999999999\r\n\r\n", 413),
        (POST + b"Transfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n", 411),
        (POST + b"Transfer-Encoding: chunked\r\nContent-Length: 2\r\n\r\n{}", 411),
        (POST + b"Content-Length: 2\r\nExpect: magic\r\n\r\n{}", 417),
        (b"GET /" + b"a" * 9000 + b" HTTP/1.1\r\n\r\n", 414),
        (GET + b"X: " + b"a" * 9000 + b"\r\n\r\n", 431),
        (GET + b"X: a\r\n" * 200 + b"\r\n", 431),
        (b"GET /%s HTTP/1.1\r\n\r\n" % "\u00e9".encode(), 400),
    ],
)
def test_a_malformed_request_ends_the_connection(server, sent, status):
    answer = server.raw(sent + ALIVE)
    assert statuses(answer) == [status]
    head, _, body = answer.partition(b"\r\n\r\n")
    assert b"Connection: close" in head
    assert json.loads(body)


def test_one_connection_answers_several_requests_also_after_one_that_was_refused(server):
    wrong = POST + b"Content-Length: 5\r\n\r\n{bad}"
    answer = server.raw(b"\r\n" + GET + b"\r\n" + wrong + b"GET /nothing HTTP/1.1\r\n" + HOST + b"\r\n" + ALIVE)
    assert statuses(answer) == [200, 400, 404, 200]


def test_http_1_0_is_closed_unless_it_asks_otherwise(server):
    old = b"GET /v1/models HTTP/1.0\r\n" + HOST
    assert statuses(server.raw(old + b"\r\n" + ALIVE)) == [200]
    assert statuses(server.raw(old + b"Connection: keep-alive\r\n\r\n" + ALIVE)) == [200, 200]


def test_a_client_that_asks_first_is_told_to_go_on_or_not(server):
    with socket.create_connection(("127.0.0.1", server.port), timeout=WAIT) as sock:
        sock.sendall(POST + b"Content-Length: 2\r\nExpect: 100-continue\r\n\r\n")
        assert sock.recv(100) == b"HTTP/1.1 100 Continue\r\n\r\n"
        sock.sendall(b"{}")
        assert b" 400 " in sock.recv(1000)
    refused = POST.replace(b"json", b"xml") + b"Content-Length: 2\r\nExpect: 100-continue\r\n\r\n"
    assert statuses(server.raw(refused)) == [415]


@pytest.mark.parametrize(
    ("method", "path", "status", "allow"),
    [
        ("HEAD", "/v1/models", 200, None),
        ("OPTIONS", "/v1/models", 204, "GET, HEAD, OPTIONS"),
        ("OPTIONS", "/sdapi/v1/txt2img", 204, "POST, OPTIONS"),
        ("GET", "/sdapi/v1/txt2img", 405, "POST, OPTIONS"),
        ("DELETE", "/v1/models", 405, "GET, HEAD, OPTIONS"),
        ("GET", "/v1/models/", 404, None),
        ("GET", "/sdapi/v1/../v1/models", 404, None),
        ("GET", "/v1/models?x=1", 200, None),
        ("BREW", "/nowhere", 404, None),
    ],
)
def test_methods(server, method, path, status, allow):
    got, body, headers = server.ask(method, path)
    assert (got, headers["Allow"]) == (status, allow)
    assert headers["Access-Control-Allow-Origin"] is None
    if method == "HEAD":
        assert body == b""
        assert int(headers["Content-Length"]) > 0


@pytest.mark.parametrize("kind", ["text/plain", "", "application/xml", "multipart/form-data; boundary=x"])
def test_a_body_of_another_type_is_not_read(server, kind):
    status, answer, _ = server.ask("POST", "/v1/images/generations", b"{}", {"Content-Type": kind})
    assert status == 415
    assert "application/json" in answer["error"]["message"]


@pytest.fixture
def patient(monkeypatch):
    """A server that waits for longer than a client here: what it waits for in vain fails the test."""
    for name in ("IDLE_S", "HEAD_S", "BODY_S", "SILENT_S"):
        monkeypatch.setattr(connection, name, 2.0 * WAIT)


@pytest.mark.usefixtures("patient")
def test_a_body_that_is_too_large_is_refused_before_it_is_sent(server):
    answer = server.raw(POST + b"Content-Length: 1048577\r\n\r\n" + b"x" * 1_048_577)
    assert statuses(answer) == [413]


def test_a_slow_client_is_let_go(server, monkeypatch):
    monkeypatch.setattr(connection, "HEAD_S", 0.3)
    monkeypatch.setattr(connection, "BODY_S", 0.3)
    with monkeypatch.context() as patch:
        patch.setattr(connection, "IDLE_S", 0.3)
        assert server.raw(b"") == b""
    with socket.create_connection(("127.0.0.1", server.port), timeout=WAIT) as sock:
        for _ in range(30):  # a byte now and then does not help
            try:
                sock.sendall(b"G")
            except OSError:
                break
            time.sleep(0.05)
        assert b" 408 " in sock.recv(1000)
    assert statuses(server.raw(POST + b"Content-Length: 10\r\n\r\n{}")) == [408]


@pytest.mark.usefixtures("patient")
def test_who_announces_much_and_sends_nothing_takes_no_place_for_long(server, monkeypatch):
    monkeypatch.setattr(connection, "SILENT_S", 0.3)
    assert statuses(server.raw(POST + b"Content-Length: 1000000\r\n\r\n{")) == [408]


def test_what_renders_nothing_takes_no_large_body(server):
    for method, path in (("POST", "/sdapi/v1/options"), ("POST", "/sdapi/v1/interrupt"), ("GET", "/v1/models")):
        head = f"{method} {path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
        assert statuses(server.raw(f"{head}Content-Length: 65537\r\n\r\n".encode())) == [413]


@settings(max_examples=60)
@given(st.binary(max_size=200), st.sampled_from([b"", b"GET ", GET, POST, POST + b"Content-Length: 3\r\n\r\n"]))
def test_any_bytes_end_in_an_answer_or_an_end(server, data, start):
    answer = server.raw(start + data, shut=True)
    assert not answer or answer.startswith(b"HTTP/1.1 ")
    assert b" 500 " not in answer.split(b"\r\n")[0]
    assert server.get("/sdapi/v1/progress")[0] == 200
