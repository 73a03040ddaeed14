"""The endpoints together, and the socket: who is answered what, and how it begins and ends."""

from __future__ import annotations

import errno
import os
import socket
import socketserver
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from ..batch.models import Models
from ..errors import BackendError, RequestError
from ..printable import printable
from ..request import Request
from . import a1111, a1111_tables, access, bodies, openai
from .access import is_loopback
from .answers import A1111, OPENAI, Answer, Refusal, answer_of, framing, in_json
from .connection import Connection, GoneError, Head
from .kept import Kept
from .limits import Limits
from .names import Names
from .worker import Worker

CONNECTIONS = 64  # beside those that wait in the queue
SHORTEST_TOKEN = 8
END_S = 10.0  # for answers under way when the server ends
SMALL = 64 * 2**10  # bytes of a body for which nothing is rendered: any number of them may come at once
JSON, FORM = "application/json", "multipart/form-data"
_PREFIX = "/sdapi/v1/"
_REMEDIES = {
    errno.EADDRNOTAVAIL: "Give --host an address of this machine, such as 127.0.0.1.",
    errno.EACCES: "Choose a --port from 1024.",
}

Tell = Callable[[str], None]
Fail = Callable[[Exception], None]


@dataclass(frozen=True)
class _Ask:
    """A request with its body, for an endpoint: `address` is the server's as the client calls it."""

    head: Head
    body: bytes
    address: str
    is_gone: Callable[[], bool]

    def json(self) -> dict[str, Any]:
        return bodies.json_object(self.body)


@dataclass(frozen=True)
class _Endpoint:
    """A method of a path: `takes` is the type of its body, `renders` whether it takes a place in the queue."""

    run: Callable[[_Ask], Answer]
    takes: str | None = None
    renders: bool = False


class Service:
    """A server of one Request's settings, on which each request builds.

    base   what is served: a model, and the settings that hold where a request says nothing
    token  what clients must know; needed where other machines can reach the server
    tell   called with one line for each request that was answered, from any thread
    fail   called with each error that nobody foresaw, from any thread

    Raises RequestError for an address without a token, BackendError where the port is taken.
    """

    def __init__(
        self,
        base: Request,
        *,
        host: str = "127.0.0.1",
        port: int = 7860,
        token: str | None = None,
        limits: Limits | None = None,
        tell: Tell = lambda _: None,
        fail: Fail = lambda _: None,
        models: Models | None = None,
    ) -> None:
        if token is None and not is_loopback(host):
            raise RequestError(
                f"Other machines can reach {host}, and nothing would keep them out.",
                "Set MLXDIFF_TOKEN or give --token, or listen on 127.0.0.1.",
            )
        if token is not None and (len(token) < SHORTEST_TOKEN or not token.isascii() or not token.isprintable()):
            raise RequestError(
                f"The token has to be {SHORTEST_TOKEN} letters or more of ASCII.", "Make one with: openssl rand -hex 16"
            )
        self.token, self._tell, self._fail = token, tell, fail
        self.names = Names(base)
        self.worker = Worker(Limits() if limits is None else limits, self.names, models)
        self._base, self._kept = base, Kept()
        self._connections: set[Connection] = set()
        self._ends = False
        self._routes = self._endpoints()
        self._socket = _listening(host, port, self._handler(), CONNECTIONS + self.worker.limits.queue)

    @property
    def address(self) -> str:
        """http://HOST:PORT, with the port that the system chose where it was 0."""
        host, port = self._socket.server_address[:2]
        name = str(host)
        return f"http://[{name}]:{port}" if ":" in name else f"http://{name}:{port}"

    def start(self) -> None:
        """Loads the model, and sees that what is served can be rendered; raises what that raises."""
        try:
            self.worker.start(self._base)
        except BaseException:
            self._socket.server_close()
            raise

    def run(self) -> None:
        """Answers until `stop` is called from another thread."""
        self._socket.serve_forever(poll_interval=0.2)

    def close(self) -> None:
        """Ends what `start` began, whether it ran or not; pictures that are being rendered are sent first."""
        self._socket.server_close()
        self._ends = True
        for connection in self._connections.copy():
            connection.finish()
        self.worker.stop()
        end = time.monotonic() + END_S
        while self._socket.busy and time.monotonic() < end:
            time.sleep(0.02)

    def stop(self) -> None:
        self._socket.shutdown()

    def _endpoints(self) -> dict[str, dict[str, _Endpoint]]:
        names, worker, kept = self.names, self.worker, self._kept

        def table(of: Callable[[Names], Answer]) -> dict[str, _Endpoint]:
            return {"GET": _Endpoint(lambda _: of(names))}

        def picture(*, from_picture: bool) -> dict[str, _Endpoint]:
            def run(ask: _Ask) -> Answer:
                return a1111.render(ask.json(), names, worker, ask.is_gone, from_picture=from_picture)

            return {"POST": _Endpoint(run, JSON, renders=True)}

        def set_options(ask: _Ask) -> Answer:
            return a1111_tables.set_options(ask.json(), names)

        def generations(ask: _Ask) -> Answer:
            return openai.generations(ask.json(), names, worker, kept, ask.address, ask.is_gone)

        def edits(ask: _Ask) -> Answer:
            form = bodies.form(ask.body, ask.head.headers.get("content-type", ""))
            return openai.edits(form, names, worker, kept, ask.address, ask.is_gone)

        return {
            "/v1/models": table(openai.models),
            "/v1/images/generations": {"POST": _Endpoint(generations, JSON, renders=True)},
            "/v1/images/edits": {"POST": _Endpoint(edits, FORM, renders=True)},
            f"{_PREFIX}txt2img": picture(from_picture=False),
            f"{_PREFIX}img2img": picture(from_picture=True),
            f"{_PREFIX}options": {**table(a1111_tables.options), "POST": _Endpoint(set_options, JSON)},
            f"{_PREFIX}samplers": table(a1111_tables.samplers),
            f"{_PREFIX}schedulers": table(a1111_tables.schedulers),
            f"{_PREFIX}sd-models": table(a1111_tables.models),
            f"{_PREFIX}loras": table(a1111_tables.loras),
            f"{_PREFIX}upscalers": table(a1111_tables.upscalers),
            f"{_PREFIX}latent-upscale-modes": table(a1111_tables.latent_upscalers),
            **{f"{_PREFIX}{name}": table(a1111_tables.nothing(value)) for name, value in a1111_tables.NOTHING.items()},
            f"{_PREFIX}progress": {"GET": _Endpoint(lambda _: a1111.progress(worker))},
            f"{_PREFIX}interrupt": {"POST": _Endpoint(lambda _: a1111.interrupt(worker))},
            f"{_PREFIX}skip": {"POST": _Endpoint(lambda _: a1111.interrupt(worker))},
            f"{_PREFIX}refresh-checkpoints": {"POST": _Endpoint(lambda _: in_json(None))},  # looked up each time
            "/": {"GET": _Endpoint(lambda _: in_json({"name": "mlxdiff", "apis": ["/v1", "/sdapi/v1"]}))},
        }

    def _answer(self, head: Head, connection: Connection) -> Answer:
        if head.path.startswith(openai.FILES) and head.method in ("GET", "HEAD"):
            found = self._kept.find(head.path.removeprefix(openai.FILES))  # its name is the secret
            if found is None:
                raise Refusal(404, "There is no such picture, or no more. They are kept for an hour.")
            return Answer(200, *found)
        access.check(head, self.token)
        methods = self._routes.get(head.path)
        if methods is None:
            raise Refusal(404, f"There is nothing at {head.path[:100]}. docs/server.md lists what there is.")
        allowed = {"Allow": ", ".join([*methods, *(["HEAD"] if "GET" in methods else []), "OPTIONS"])}
        if head.method == "OPTIONS":
            return Answer(204, headers=allowed)
        endpoint = methods.get("GET" if head.method == "HEAD" else head.method)
        if endpoint is None:
            message = f"{head.path} does not take {head.method}. It takes {allowed['Allow']}."
            raise Refusal(405, message, headers=allowed)
        if endpoint.takes is not None:
            sent = head.headers.get("content-type", "").partition(";")[0].strip().lower()
            if sent != endpoint.takes:
                raise Refusal(415, f"The body is not {endpoint.takes}. Send it with this Content-Type.")
        most = self.worker.limits.bytes if endpoint.renders else SMALL
        if head.length > most:
            raise framing(413, f"The body has {head.length:,} bytes. Send at most {most:,}.")
        if not endpoint.renders:
            with self.names.only():
                return endpoint.run(_Ask(head, connection.body(), "", connection.is_gone))
        # The place comes before the body is read: no more of them are in memory than may wait.
        with self.worker.place(), self.names.only():
            address = f"http://{head.headers['host']}"
            return endpoint.run(_Ask(head, connection.body(), address, connection.is_gone))

    def _serve(self, connection: Connection) -> None:
        """One request after another of a connection, until one of them is its last."""
        while True:
            api, head, began, why = A1111, None, time.monotonic(), ""
            try:
                head = connection.head()
                began = time.monotonic()
                api = OPENAI if head.path.startswith("/v1/") else A1111
                answer, keeps = self._answer(head, connection), head.keeps_alive
            except Refusal as refusal:
                why = f"{f' from {connection.client}' if refusal.status == 401 else ''}: {refusal.message[:500]}"
                refusal.message = self.names.told(refusal.message)
                answer, keeps = answer_of(refusal, api), head is not None and head.keeps_alive
                keeps = keeps and not refusal.is_framing
            except GoneError:
                if head is not None:
                    self._tell(f"{_shown(head)}: the client hung up after {time.monotonic() - began:.2f} s")
                return
            except Exception as error:
                self._fail(error)
                message = f"An unexpected error ({type(error).__name__}). The server's log says more."
                answer, keeps = answer_of(Refusal(500, message), api), False
            self._tell(f"{_shown(head)} {answer.status} {time.monotonic() - began:.2f} s{why}")
            bare = head is not None and head.method == "HEAD"
            if not connection.send(answer, without_body=bare, keeps_alive=keeps):
                connection.end()
                return

    def _handler(self) -> type[socketserver.BaseRequestHandler]:
        service = self

        class Handler(socketserver.BaseRequestHandler):
            def handle(self) -> None:
                connection = Connection(self.request)
                service._connections.add(connection)
                if service._ends:
                    connection.finish()
                try:
                    with suppress(GoneError):
                        service._serve(connection)
                finally:
                    service._connections.discard(connection)

        return Handler


def _shown(head: Head | None) -> str:
    """A request for the log; what follows ? may be anything, and is left out."""
    return "?" if head is None else printable(f"{head.method} {head.path[:200]}")


class _Socket(socketserver.ThreadingMixIn, socketserver.TCPServer):
    """A thread for each connection, and no more than `most` of them."""

    allow_reuse_address = os.name != "nt"  # where it would let another program take the port
    daemon_threads = True
    block_on_close = False
    request_queue_size = 64
    busy = 0

    def __init__(self, *arguments: Any, family: int, most: int) -> None:
        self.address_family, self.most = family, most
        self._lock = threading.Lock()
        super().__init__(*arguments)

    def process_request(self, request: Any, client_address: Any) -> None:
        with self._lock:
            full = self.busy >= self.most
            self.busy += not full
        if full:
            self.shutdown_request(request)
        else:
            super().process_request(request, client_address)

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        try:
            super().process_request_thread(request, client_address)
        finally:
            with self._lock:
                self.busy -= 1

    def handle_error(self, request: Any, client_address: Any) -> None:
        """What happens to one connection is no matter of the others."""


def _listening(host: str, port: int, handler: type[socketserver.BaseRequestHandler], most: int) -> _Socket:
    host = host.removeprefix("[").removesuffix("]")  # as IPv6 stands in addresses
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        family, _, _, _, address = found[0]
        return _Socket(address, handler, family=family, most=most)
    except (OSError, OverflowError, UnicodeError) as error:
        number = (
            errno.EADDRNOTAVAIL if isinstance(error, socket.gaierror | UnicodeError) else getattr(error, "errno", 0)
        )
        reason = getattr(error, "strerror", None) or error
        remedy = _REMEDIES.get(number or 0, "Choose another --port, or end what listens there.")
        raise BackendError(
            f"The server cannot listen on port {port} of {host or 'no host'} ({reason}).", remedy
        ) from None
