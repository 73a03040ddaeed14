"""One question to the hub over HTTP, within bounds: how long, how slow, how much, and whom the token reaches.

The connection is huggingface_hub's, so that proxies and certificates are what its users set up. A thread of its own
reads it: a server that sends a byte now and then keeps that thread waiting, never the caller.
"""

from __future__ import annotations

import json
import os
import queue
import re
import threading
import time
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any
from urllib.parse import urljoin, urlsplit

from ..errors import MlxdiffError, RequestError

LIBRARY = "mlxdiff"
HEAD_SECONDS = 30.0  # until an answer begins
RATE = 1000  # bytes a second that an answer has to bring
RATE_SECONDS = 15.0  # over which that is measured
REDIRECTS = 5
_LOOK = 0.05  # seconds between checks whether it was stopped
_QUEUED = 16  # blocks read ahead
_UNPACKED = 2**20  # bytes unpacked at once
_MOVED = (301, 302, 303, 307, 308)
_TOKEN = "authorization"


class Stopped(Exception):
    """Another file failed, or the user interrupted: what has arrived stays for the next pull."""


class Unreachable(Exception):
    """No answer, or one that broke off. `kind` is the network library's name for it, `host` who did not answer."""

    def __init__(self, kind: str, url: str):
        super().__init__(kind)
        self.kind = kind
        self.host = urlsplit(url).netloc.rpartition("@")[2]


class TooSlow(Unreachable):
    """Less than RATE bytes a second for RATE_SECONDS, or no answer for HEAD_SECONDS; `kind` says which."""


class Refused(Exception):
    """An answer with an HTTP status of 400 or more, and what the hub says in its headers."""

    def __init__(self, status: int, headers: Mapping[str, str]):
        super().__init__(f"HTTP {status}")
        self.status = status
        self.code = headers.get("X-Error-Code", "")
        self.message = headers.get("X-Error-Message", "")
        self.headers = headers


@dataclass(frozen=True)
class _Head:
    status: int
    headers: Mapping[str, str]


@dataclass(frozen=True)
class Answer:
    """What came back from `url`: its status (below 400), its headers, and its body as it arrives."""

    url: str
    status: int
    headers: Mapping[str, str]
    _blocks: queue.Queue[Any]
    _stop: threading.Event | None

    @property
    def is_packed(self) -> bool:
        """Whether the body is compressed, although that was not requested."""
        return self.headers.get("Content-Encoding", "identity").strip().lower() not in ("", "identity")

    def blocks(self) -> Iterator[bytes]:
        """The body, unpacked, in pieces of a megabyte at most. Raises TooSlow, Unreachable and Stopped."""
        return self._unpacked() if self.is_packed else self._raw()

    def _raw(self) -> Iterator[bytes]:
        since, arrived = time.monotonic(), 0
        while True:
            block = _next(self._blocks, self.url, since + RATE_SECONDS, self._stop, _rate())
            if block is None:
                return
            arrived += len(block)
            now = time.monotonic()
            if now - since >= RATE_SECONDS:
                if arrived < RATE * RATE_SECONDS:
                    raise TooSlow(_rate(), self.url)
                since, arrived = now, 0
            yield block

    def _unpacked(self) -> Iterator[bytes]:
        unpack = zlib.decompressobj(zlib.MAX_WBITS | 32)  # zlib or gzip
        try:
            for block in self._raw():
                while block:
                    yield unpack.decompress(block, _UNPACKED)
                    block = unpack.unconsumed_tail
        except zlib.error:
            raise Unreachable("DecodingError", self.url) from None
        if not unpack.eof:
            raise Unreachable("DecodingError", self.url)


def headers_with(token: str | None) -> dict[str, str]:
    """The headers of every question: who asks, and the token, which is `token`, HF_TOKEN or what was stored.

    Raises RequestError for a token that no hub could have given out.
    """
    import platform

    from huggingface_hub import __version__, constants, get_token

    # huggingface_hub would take line feeds out in silence, and the hub would then refuse another token.
    _check_token(os.environ.get("HF_TOKEN", "").strip() if token is None else token, is_given=token is not None)
    sent = token
    if token is None and not constants.HF_HUB_DISABLE_IMPLICIT_TOKEN:
        sent = get_token()
        _check_token(sent or "", is_given=False)
    # Not huggingface_hub's own headers: to make those it asks the hub a question, and waits for the answer for ever.
    agent = {"user-agent": f"{LIBRARY}; hf_hub/{__version__}; python/{platform.python_version()}"}
    return agent if sent is None else {**agent, _TOKEN: f"Bearer {sent}"}


def origin_of(url: str) -> tuple[str, str, int | None]:
    """Scheme, host and port: what a token is meant for. Raises ValueError for what is no address."""
    parts = urlsplit(url)
    port = parts.port
    if port is None:
        port = {"http": 80, "https": 443}.get(parts.scheme)
    return parts.scheme, (parts.hostname or "").lower(), port


@contextmanager
def answered(url: str, headers: Mapping[str, str], stop: threading.Event | None = None) -> Iterator[Answer]:
    """The answer to a GET; redirects are followed, without the token as soon as one leads to another origin.

    Raises Refused, Unreachable, TooSlow and Stopped, and MlxdiffError for what no hub would say.
    """
    for _ in range(REDIRECTS + 1):
        with _asked(url, headers, stop) as answer:
            if answer.status >= 400:
                raise Refused(answer.status, answer.headers)
            if answer.status not in _MOVED:
                yield answer
                return
            target = followed(url, answer.headers.get("Location", ""))
        headers = without_token(headers, url, target)
        url = target
    raise no_hub("it redirects without end")


def ask(url: str, headers: Mapping[str, str], limit: int) -> tuple[Any, str | None, int]:
    """The JSON at an address, the address of the next page if there is one, and the bytes that it took.

    Raises what `answered` raises, and MlxdiffError for more than `limit` bytes and for what is no JSON.
    """
    with _whole(url, headers, limit) as (answer, content):
        try:
            value = json.loads(content)
        except (ValueError, RecursionError):
            raise no_hub("an answer is not JSON") from None
        link = _next_link(answer.headers.get("Link", ""))
        return value, None if link is None else followed(answer.url, link), len(content)


def content(url: str, headers: Mapping[str, str], limit: int) -> bytes:
    """What is at an address, of at most `limit` bytes. Raises what `answered` raises, and MlxdiffError for more."""
    with _whole(url, headers, limit) as (_, found):
        return found


@contextmanager
def _whole(url: str, headers: Mapping[str, str], limit: int) -> Iterator[tuple[Answer, bytes]]:
    with answered(url, {**headers, "Accept-Encoding": "identity"}) as answer:
        found = bytearray()
        for block in answer.blocks():
            found += block
            if len(found) > limit:
                raise no_hub(f"an answer is longer than {limit / 1e6:.0f} MB")
        if answer.status != 200:
            raise no_hub(f"it answers with HTTP {answer.status}")
        yield answer, bytes(found)


def followed(url: str, target: str) -> str:
    """Where an address that a server named leads; MlxdiffError for what is none, or would give up encryption."""
    try:
        whole = urljoin(url, target)
        scheme, host, _ = origin_of(whole)
    except ValueError:
        scheme = host = whole = ""
    is_plain = whole.isascii() and whole.isprintable() and len(whole) <= 8000
    if not target or scheme not in ("http", "https") or not host or not is_plain:
        raise no_hub("it names an address that is none")
    if scheme == "http" and urlsplit(url).scheme == "https":
        raise no_hub("it leads from an encrypted address to one that is not")
    return whole


def without_token(headers: Mapping[str, str], url: str, target: str) -> dict[str, str]:
    """The headers for `target`, to which `url` led: the token stays with the origin that it is meant for."""
    same = origin_of(url) == origin_of(target)
    return {key: value for key, value in headers.items() if same or key.lower() != _TOKEN}


def no_hub(what: str) -> MlxdiffError:
    """The error for an answer that makes no sense."""
    from huggingface_hub import constants

    return MlxdiffError(
        f"{constants.ENDPOINT} does not answer as a hub does: {what}.", "Check HF_ENDPOINT and any proxy."
    )


@contextmanager
def _asked(url: str, headers: Mapping[str, str], stop: threading.Event | None) -> Iterator[Answer]:
    blocks: queue.Queue[Any] = queue.Queue(_QUEUED)
    gone = threading.Event()
    reader = threading.Thread(target=_read, args=(url, headers, blocks, gone), daemon=True, name="mlxdiff-hub")
    reader.start()
    try:
        late = f"nothing came in {HEAD_SECONDS:g} seconds"
        head = _next(blocks, url, time.monotonic() + HEAD_SECONDS, stop, late)
        yield Answer(url, head.status, head.headers, blocks, stop)
    finally:
        gone.set()


def _read(url: str, headers: Mapping[str, str], blocks: queue.Queue[Any], gone: threading.Event) -> None:
    """Puts the head of an answer, its raw blocks and None into the queue, or the exception that ended it."""
    from huggingface_hub import constants, get_session

    def hand_over(item: Any) -> None:
        while not gone.is_set():
            with suppress(queue.Full):
                blocks.put(item, timeout=_LOOK)
                return

    wait = constants.HF_HUB_DOWNLOAD_TIMEOUT
    try:
        session = get_session()
        with session.stream("GET", url, headers=dict(headers), follow_redirects=False, timeout=wait) as response:
            _forget_cookies(session, response)
            hand_over(_Head(response.status_code, response.headers))
            for block in response.iter_raw():
                if gone.is_set():
                    return
                hand_over(block)
        hand_over(None)
    except Exception as error:
        hand_over(error)


def _forget_cookies(session: Any, response: Any) -> None:
    """The session is everybody's: a cookie that an answer set would go along with, or break, all later questions."""
    for cookie in list(response.cookies.jar):
        with suppress(KeyError):  # another thread was faster
            session.cookies.jar.clear(cookie.domain, cookie.path, cookie.name)


def _rate() -> str:
    return f"less than {RATE} bytes a second for {RATE_SECONDS:g} seconds"


def _next(blocks: queue.Queue[Any], url: str, deadline: float, stop: threading.Event | None, late: str) -> Any:
    """The next item of `_read`; its exceptions are raised here, and TooSlow after the deadline: `late` says why."""
    from huggingface_hub.errors import OfflineModeIsEnabled

    while True:
        if stop is not None and stop.is_set():
            raise Stopped
        left = deadline - time.monotonic()
        try:
            item = blocks.get(timeout=max(0.0, min(_LOOK, left)))
        except queue.Empty:
            if left <= 0:
                raise TooSlow(late, url) from None
            continue
        if isinstance(item, OfflineModeIsEnabled):
            raise item
        if isinstance(item, Exception):
            raise Unreachable(type(item).__name__, url) from item
        return item


def _next_link(header: str) -> str | None:
    """The address of `<...>; rel="next"` (RFC 8288) in a Link header."""
    for match in re.finditer(r"<([^<>]*)>([^<]*)", header[:20_000]):
        if re.search(r';\s*rel\s*=\s*"?next"?\s*(?:[;,]|$)', match[2], re.IGNORECASE):
            return match[1]
    return None


def _check_token(token: str, *, is_given: bool) -> None:
    """Raises the error for a token that cannot be sent. `is_given`: by the caller, and not found in the environment."""
    if not token:
        wrong = "is empty" if is_given else None
    elif "\r" in token or "\n" in token:
        wrong = "holds a line feed"
    elif not token.isascii():
        wrong = "holds a letter beyond ASCII"
    else:
        wrong = None if all("!" <= letter <= "~" for letter in token) else "holds a space or a control character"
    if wrong is not None:
        kind = RequestError if is_given else MlxdiffError
        place = "that was given" if is_given else "in HF_TOKEN, or the one that is stored,"
        raise kind(f"The access token {place} {wrong}.", "Copy it again from the hub's settings, or leave it out.")
