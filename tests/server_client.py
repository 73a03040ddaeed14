"""A real server in threads of the test's process, and what asks it: http.client, or bytes on a socket."""

from __future__ import annotations

import base64
import http.client
import io
import json
import socket
import threading
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from typing import Any

from patience import WAIT
from PIL import Image

from mlxdiff.request import Request
from mlxdiff.server import Limits, Service

BASE = Request(model="emoji", height=32, width=32, steps=2, dtype="fp32")
LIMITS = Limits(queue=1, images=4, steps=2000, pixels=256 * 256, bytes=2**20)


@dataclass
class Server:
    service: Service
    said: list[str] = field(default_factory=list)
    failed: list[Exception] = field(default_factory=list)

    @property
    def port(self) -> int:
        return int(self.service.address.rpartition(":")[2])

    def ask(
        self, method: str, path: str, body: bytes | str | None = None, headers: Mapping[str, str] | None = None
    ) -> tuple[int, Any, http.client.HTTPMessage]:
        """Status, body (JSON as a value) and headers."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=WAIT)
        try:
            connection.request(method, path, body, dict(headers or {}))
            answer = connection.getresponse()
            data = answer.read()
        finally:
            connection.close()
        is_json = answer.headers["Content-Type"] == "application/json" and data
        return answer.status, json.loads(data) if is_json else data, answer.headers

    def post(self, path: str, value: Any, **headers: str) -> tuple[int, Any]:
        sent = value if isinstance(value, bytes | str) else json.dumps(value)
        status, answer, _ = self.ask("POST", path, sent, {"Content-Type": "application/json", **headers})
        return status, answer

    def get(self, path: str, **headers: str) -> tuple[int, Any]:
        return self.ask("GET", path, headers=headers)[:2]

    def raw(self, data: bytes, *, shut: bool = False) -> bytes:
        """Everything that is answered to these bytes until the server closes."""
        with socket.create_connection(("127.0.0.1", self.port), timeout=WAIT) as sock:
            sock.sendall(data)
            if shut:
                sock.shutdown(socket.SHUT_WR)
            answer = b""
            while part := sock.recv(65536):
                answer += part
        return answer


@contextmanager
def serving(**options: Any) -> Iterator[Server]:
    """A server of the built-in model on a free port; at the end it has to end."""
    server = Server(service=None)  # type: ignore[arg-type]
    given = {"limits": LIMITS, "port": 0, "base": BASE} | options
    server.service = Service(given.pop("base"), tell=server.said.append, fail=server.failed.append, **given)
    server.service.start()
    thread = threading.Thread(target=_run, args=(server.service,))
    thread.start()
    try:
        yield server
    finally:
        server.service.stop()
        thread.join(timeout=WAIT)
        assert not thread.is_alive()


def _run(service: Service) -> None:
    with closing(service):
        service.run()


def picture(data: bytes | str) -> Image.Image:
    return Image.open(io.BytesIO(base64.b64decode(data) if isinstance(data, str) else data))


def base64_of(image: Image.Image, kind: str = "PNG") -> str:
    return base64.b64encode(bytes_of(image, kind)).decode()


def bytes_of(image: Image.Image, kind: str = "PNG") -> bytes:
    stream = io.BytesIO()
    image.save(stream, kind)
    return stream.getvalue()


def form(**fields: str | bytes) -> tuple[bytes, str]:
    """A multipart body and its type; bytes are files."""
    parts = []
    for name, value in fields.items():
        file = f'; filename="{name}.png"\r\nContent-Type: image/png' if isinstance(value, bytes) else ""
        head = f'--BOUND\r\nContent-Disposition: form-data; name="{name}"{file}\r\n\r\n'
        parts.append(head.encode() + (value if isinstance(value, bytes) else value.encode()) + b"\r\n")
    return b"".join([*parts, b"--BOUND--\r\n"]), "multipart/form-data; boundary=BOUND"
