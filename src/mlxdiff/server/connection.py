"""HTTP/1.1 on a socket, read within bounds of size and time. Knows nothing of pictures.

What RFC 9112 lets a server guess is refused here, since a proxy in front might guess otherwise: two lengths, a length
that is no number, chunks, lines that end in a bare LF, folded lines, blanks around a field's name.
"""

from __future__ import annotations

import re
import socket
import time
from contextlib import suppress
from dataclasses import dataclass
from email.utils import formatdate
from http import HTTPStatus

from .answers import Answer, framing

IDLE_S, HEAD_S, BODY_S, WRITE_S = 15.0, 10.0, 30.0, 60.0
SILENT_S = 15.0  # between two pieces of a request
SLOWEST = 64 * 2**10  # bytes a second of a body, beside BODY_S
LINE, HEAD, FIELDS = 8 * 2**10, 32 * 2**10, 100  # bytes of a line and of all of them, how many there are
LEFT = 64 * 2**10  # bytes of a body nobody wants, read so that the connection can go on

_TOKEN = re.compile(rb"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_REQUEST = re.compile(rb"([!#$%&'*+.^_`|~0-9A-Za-z-]{1,32}) ([!-~]+) HTTP/([0-9])\.([0-9])")
_VALUE = re.compile(rb"[\t -~\x80-\xff]*")
_ONCE = ("content-length", "host", "authorization", "content-type", "transfer-encoding", "origin", "expect")


class GoneError(Exception):
    """The client has ended the connection, or was silent for too long between two requests."""


@dataclass(frozen=True)
class Head:
    """The first part of a request: `path` without its query, `headers` by name in small letters."""

    method: str
    path: str
    query: str
    headers: dict[str, str]
    keeps_alive: bool
    length: int


class Connection:
    """A socket with what was read of it and not yet used."""

    def __init__(self, sock: socket.socket) -> None:
        self._socket = sock
        self._read = bytearray()
        self._deadline = 0.0
        self._left = 0  # bytes of the body that are still to be read
        self._expects = False
        self._is_idle = False  # between two requests
        self._is_last = False

    @property
    def client(self) -> str:
        """The address that the client, or a proxy in front, has."""
        try:
            return str(self._socket.getpeername()[0])
        except (OSError, IndexError):  # it has hung up
            return "?"

    def head(self) -> Head:
        """The next request's; raises GoneError where there is none, Refusal for what is no sound HTTP/1.1."""
        self._deadline = time.monotonic() + IDLE_S
        if not self._read:
            self._is_idle = True
            try:
                if self._is_last:
                    raise ConnectionError
                self._more()
            except OSError:
                raise GoneError from None
            finally:
                self._is_idle = False
        self._deadline = time.monotonic() + HEAD_S
        try:
            return self._head()
        except TimeoutError:
            raise framing(408, "The request did not arrive in time. Send it at once.") from None
        except OSError:
            raise GoneError from None

    def _head(self) -> Head:
        first = self._line(414, "The address is too long.")
        if not first:  # RFC 9112, 2.2: one empty line before a request is to be ignored
            first = self._line(414, "The address is too long.")
        found = _REQUEST.fullmatch(first)
        if found is None:
            raise framing(400, "This is no HTTP request. Send: METHOD /path HTTP/1.1")
        if found[3] != b"1":
            raise framing(505, "Only HTTP/1.1 is spoken here. Ask without HTTP/2.")
        headers = self._fields()
        target = found[2].decode("ascii")
        if not target.startswith("/"):
            raise framing(400, "The address is no path. Send one that begins with a slash.")
        path, _, query = target.partition("?")
        self._left = _length(headers)
        expects = headers.get("expect", "").lower()
        if expects not in ("", "100-continue"):
            raise framing(417, "The server expects nothing but 100-continue.")
        self._expects = bool(expects)
        wishes = {word.strip().lower() for word in headers.get("connection", "").split(",")}
        keeps_alive = "close" not in wishes if found[4] != b"0" else "keep-alive" in wishes
        return Head(found[1].decode("ascii"), path, query, headers, keeps_alive, self._left)

    def _fields(self) -> dict[str, str]:
        headers: dict[str, str] = {}
        size = count = 0
        while line := self._line(431, "A header is too long."):
            size, count = size + len(line), count + 1
            if size > HEAD or count > FIELDS:
                raise framing(431, "The headers are too many or too long. Send fewer.")
            raw, colon, value = line.partition(b":")
            if not colon or _TOKEN.fullmatch(raw) is None or _VALUE.fullmatch(value) is None:
                raise framing(400, "A header is malformed. Write it as Name: value, on one line.")
            name = raw.decode("ascii").lower()
            if name in headers and name in _ONCE:
                raise framing(400, f"The header {name} is there twice. Send it once.")
            text = value.strip(b" \t").decode("latin-1")
            headers[name] = f"{headers[name]}, {text}" if name in headers else text
        return headers

    def body(self) -> bytes:
        """The whole body, for which a client may have waited to be asked; raises Refusal, GoneError."""
        if self._expects and self._left and not self._read:
            self._send(b"HTTP/1.1 100 Continue\r\n\r\n")
        self._expects = False
        self._deadline = time.monotonic() + BODY_S + self._left / SLOWEST
        try:
            while len(self._read) < self._left:
                self._more()
        except TimeoutError:
            raise framing(408, "The body did not arrive in time. Send it faster.") from None
        except OSError:
            raise GoneError from None
        data = bytes(self._read[: self._left])
        del self._read[: self._left]
        self._left = 0
        return data

    def send(self, answer: Answer, *, without_body: bool, keeps_alive: bool) -> bool:
        """Sends an answer; whether another request may follow. Raises GoneError."""
        keeps_alive = keeps_alive and not self._is_last and self._skipped()
        status = HTTPStatus(answer.status)
        lines = {
            "Date": formatdate(usegmt=True),
            "Server": "mlxdiff",
            "Content-Type": answer.kind,
            "Content-Length": str(len(answer.body)),
            "Cache-Control": "no-store",
            "X-Content-Type-Options": "nosniff",
            "Connection": "keep-alive" if keeps_alive else "close",
            **answer.headers,
        }
        if answer.status == HTTPStatus.NO_CONTENT:
            del lines["Content-Length"], lines["Content-Type"]
        head = f"HTTP/1.1 {status.value} {status.phrase}\r\n" + "".join(f"{k}: {v}\r\n" for k, v in lines.items())
        self._send(head.encode("latin-1", "replace") + b"\r\n" + (b"" if without_body else answer.body))
        return keeps_alive

    def finish(self) -> None:
        """From another thread: the request at hand is the last, and where there is none the connection ends."""
        self._is_last = True
        if self._is_idle:
            with suppress(OSError):
                self._socket.shutdown(socket.SHUT_RD)

    def _skipped(self) -> bool:
        """Reads a body that was not wanted, if it is short and there; else the connection cannot go on."""
        if self._left > LEFT or (self._expects and self._left):
            return False
        try:
            self.body()
        except Exception:
            return False
        return True

    def end(self) -> None:
        """Closes what was refused so that the client can still read why, although it is sending."""
        try:
            self._socket.shutdown(socket.SHUT_WR)
            self._deadline = time.monotonic() + 1
            while True:
                self._read.clear()
                self._more()
        except (OSError, ValueError):
            pass

    def is_gone(self) -> bool:
        """Whether the client has hung up: nobody waits for the answer."""
        try:
            self._socket.settimeout(0)
            return self._socket.recv(1, socket.MSG_PEEK) == b""
        except BlockingIOError:
            return False
        except OSError:
            return True

    def _line(self, status: int, problem: str) -> bytes:
        """A line without its CR LF."""
        start = 0
        while (end := self._read.find(b"\n", start)) < 0:
            start = len(self._read)
            if start > LINE:
                raise framing(status, f"{problem} At most {LINE:,} bytes are read.")
            self._more()
        line = bytes(self._read[:end])
        del self._read[: end + 1]
        if len(line) > LINE:
            raise framing(status, f"{problem} At most {LINE:,} bytes are read.")
        if not line.endswith(b"\r") or b"\r" in line[:-1]:
            raise framing(400, "A line does not end in CR LF. Send HTTP as RFC 9112 has it.")
        return line[:-1]

    def _more(self) -> None:
        left = self._deadline - time.monotonic()
        if left <= 0:
            raise TimeoutError
        self._socket.settimeout(min(left, SILENT_S))
        data = self._socket.recv(2**16)
        if not data:
            raise ConnectionError
        self._read += data

    def _send(self, data: bytes) -> None:
        self._socket.settimeout(WRITE_S)
        try:
            self._socket.sendall(data)
        except OSError:
            raise GoneError from None


def _length(headers: dict[str, str]) -> int:
    if "transfer-encoding" in headers:
        raise framing(411, "A body in chunks is not read. Send its Content-Length.")
    text = headers.get("content-length", "0")
    if re.fullmatch(r"[0-9]{1,15}", text, re.ASCII) is None:
        raise framing(400, "Content-Length is no number. Send the body's bytes.")
    return int(text)
