"""A hub that lies: whatever it says ends in time, in one error, and touches nothing outside the cache."""

from __future__ import annotations

import gzip
import hashlib
import json
import os
import re
import shutil
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
from hub_server import TOKEN, Answer, HubServer
from huggingface_hub import constants
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from patience import WAIT
from repositories import NAME, repository

from mlxdiff import hub
from mlxdiff.errors import CheckpointError, MlxdiffError, ModelNotFoundError, RequestError
from mlxdiff.hub import client, listing, retry, transfer
from mlxdiff.hub.reference import DIGEST

WEIGHTS = "unet/diffusion_pytorch_model.safetensors"
FILES = repository(**{WEIGHTS: b"w" * 100_000})
BOUND = 8.0  # seconds of computing; most cases take hundredths
# Values that a field of JSON may have instead of the right one.
VALUES: tuple[Any, ...] = (
    *(None, True, False, 0, -1, 1.5, 2**80, 10**300, "", "12", "\0", "a\0b", "/etc/passwd", "../../../victim/keep"),
    *([], ["x"], {}, {"oid": 1}, "..", ".", "\u202egnp", "\x1b[2J", "x" * 5000, "f" * 39, "F" * 40, "f" * 41, "g" * 40),
    *("C:\\x", "..\\..\\x", "a//b", "f" * 64, "f" * 40, "٣" * 40, "f" * 40 + "\n"),
)


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    """Short pauses, and bounds that a test sees."""
    monkeypatch.setattr(retry, "PAUSE", 0.001)
    monkeypatch.setattr(listing, "PAGES", 40)
    monkeypatch.setattr(listing, "ANSWER_BYTES", 200_000)


@pytest.fixture
def impatient(monkeypatch):
    """For hubs that are slow: an honest one on a busy machine might be too."""
    monkeypatch.setattr(client, "HEAD_SECONDS", 1.0)
    monkeypatch.setattr(client, "RATE_SECONDS", 0.3)
    monkeypatch.setattr(listing, "PLAN_SECONDS", 6.0)


@pytest.fixture
def victim(tmp_path) -> Path:
    """A folder beside the cache that nobody may touch."""
    folder = tmp_path / "victim"
    folder.mkdir()
    (folder / "keep").write_bytes(b"w" * 100_000)
    return folder


@contextmanager
def contained(cache: Path) -> Iterator[None]:
    """Nothing outside the cache and mlxdiff's own state is created, changed, moved or removed, and it ends in time."""
    top, own = cache.parents[1], {cache.parent, cache.parents[1] / "state"}

    def outside() -> dict[str, tuple[int, float] | str]:
        found: dict[str, tuple[int, float] | str] = {}
        for root, folders, names in os.walk(top):
            folders[:] = [name for name in folders if Path(root, name) not in own]
            for name in (*names, *folders):
                status = Path(root, name).lstat()
                found[str(Path(root, name))] = (status.st_ino, status.st_size)
        return found

    before, start, computed = outside(), time.monotonic(), time.process_time()
    yield
    assert time.process_time() - computed < BOUND
    assert time.monotonic() - start < WAIT
    assert outside() == before
    for root, folders, names in os.walk(cache):
        for name in (*folders, *names):
            place = Path(root, name)
            if place.is_symlink():
                assert Path(os.path.realpath(place)).parent.name == "blobs"
                assert place.resolve().is_relative_to(cache.resolve())
            if place.parent.name == "blobs":
                assert DIGEST.fullmatch(name.removesuffix(".incomplete"))
            if ".locks" in place.parts and place.is_file():
                assert DIGEST.fullmatch(name.removesuffix(".lock"))


def one_error(cache: Path) -> MlxdiffError | None:
    """The one error that a plan and a pull end in, if they do; all of it can be printed."""
    with contained(cache):
        found = None
        try:
            hub.pull(hub.plan(NAME))
        except MlxdiffError as error:
            found = error
    if found is not None:
        assert str(found).isprintable(), repr(str(found))
        assert found.problem.endswith(".")
        assert found.remedy
    return found


def in_json(change: Callable[[Any], Any]) -> Callable[[Answer], Answer]:
    """A change of an answer's JSON."""

    def changed(answer: Answer) -> Answer:
        return Answer(answer.status, json.dumps(change(json.loads(answer.body))).encode(), answer.headers)

    return changed


def of_entry(path: str, *keys: str, value: Any) -> Callable[[Any], Any]:
    """A change of one field of the entry of a file in a page."""

    def change(page: list[dict[str, Any]]) -> list[dict[str, Any]]:
        for entry in page:
            if entry["path"] == path:
                inner: Any = entry
                for key in keys[:-1]:
                    inner = inner[key]
                inner[keys[-1]] = value
        return page

    return change


@pytest.mark.parametrize(
    ("path", "keys"),
    [
        *(("unet/config.json", (key,)) for key in ("oid", "size", "path", "type", "lfs")),
        *((WEIGHTS, keys) for keys in (("lfs", "oid"), ("lfs", "size"), ("lfs",), ("size",), ("path",))),
    ],
    ids=lambda it: it if isinstance(it, str) else ".".join(it),
)
def test_no_field_of_a_listing_is_believed(online, cache, victim, path, keys):
    online.add(NAME, FILES)
    possible = {("oid",): ("f" * 40,), ("lfs", "oid"): ("f" * 64,), ("lfs",): (None,), ("size",): (0,)}.get(keys, ())
    for value in (*VALUES, str(victim / "keep")):
        online.changes = [("/tree/", in_json(of_entry(path, *keys, value=value)))]
        error = one_error(cache)
        if not any(value == it and type(value) is type(it) for it in possible):
            assert error is not None, value
            assert not cache.exists(), value
        shutil.rmtree(cache, ignore_errors=True)


@pytest.mark.usefixtures("victim")
@pytest.mark.parametrize("value", VALUES, ids=lambda value: ascii(value)[:20])
def test_no_commit_no_page_and_no_entry_is_believed(online, cache, value):
    online.add(NAME, FILES)
    for pattern, change in (
        ("/revision/", lambda info: {**info, "sha": value}),
        ("/revision/", lambda _: value),
        ("/tree/", lambda _: value),
        ("/tree/", lambda page: [value, *page]),
    ):
        online.changes = [(pattern, in_json(change))]
        error = one_error(cache)
        assert error is not None
        assert not cache.exists() or value in ([], "f" * 40)


@pytest.mark.parametrize("oid", ["{victim}", "../../../../../victim/keep", "../../x", "f" * 40 + "/../../x"])
@pytest.mark.parametrize("links", [True, False])
def test_a_hash_that_is_a_path_links_moves_and_prunes_nothing(online, cache, victim, monkeypatch, oid, links):
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_SYMLINKS", not links)
    online.add(NAME, FILES)
    value = oid.format(victim=victim / "keep")
    online.alter("/tree/", in_json(of_entry(WEIGHTS, "lfs", "oid", value=value)))
    error = one_error(cache)
    assert error is not None
    assert re.search(r"the hash of 'unet/diff.* is ", error.problem)
    with contained(cache):
        hub.remove(hub.prunable())


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20) | st.sampled_from(VALUES),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=5,
)


@pytest.mark.usefixtures("victim")
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_answers_changed_at_random_end_in_one_error_or_a_model(online, cache, data):
    online.add(NAME, FILES)

    def change(value: Any) -> Any:
        where = value
        for _ in range(data.draw(st.integers(0, 2))):
            keys = list(range(len(where))) if isinstance(where, list) else list(where)
            key = data.draw(st.sampled_from(keys))
            if not isinstance(where[key], (list, dict)) or not where[key]:
                break
            where = where[key]
        if isinstance(where, list):
            where[data.draw(st.integers(0, len(where) - 1))] = data.draw(json_values)
        else:
            key = data.draw(st.sampled_from(list(where)))
            if data.draw(st.booleans()):
                where[key] = data.draw(json_values)
            else:
                del where[key]
        return value

    pattern = data.draw(st.sampled_from(["/revision/", "/tree/"]))
    online.changes = [(pattern, in_json(change))]
    one_error(cache)
    online.changes = []
    assert one_error(cache) is None


header_values = st.sampled_from(
    [
        *("", "-1", "0", "1", "9" * 30, "9" * 5000, "abc", "bytes 0-1/2", "bytes 5-99999/100000", "bytes */5", "\xb2"),
        *("gzip", "br", "identity", "deflate", "W/x", '"x', "W/" * 3000, "Thu, 99 Foo 2026", "http://[", "//", "/x?y"),
        *("http://127.0.0.1:9/x", "file:///etc/passwd", "ftp://x/y", "https://\xe9/", "<x>;rel=next", '<>; rel="next"'),
        *("</a>;rel=next" * 500, '"api";r=0;t=99999', "RepoNotFound", "GatedRepo", "\x1b[2J", "\x9b31m"),
    ]
)
headers = st.dictionaries(
    st.sampled_from(
        [
            *("Location", "Link", "Content-Range", "Content-Encoding", "Content-Length", "ETag", "Retry-After"),
            *("RateLimit", "X-Error-Code", "X-Error-Message", "Transfer-Encoding", "Set-Cookie"),
        ]
    ),
    header_values,
    min_size=1,
    max_size=3,
)


@pytest.mark.usefixtures("victim")
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    pattern=st.sampled_from(["/revision/", "/tree/", "/resolve/", "/cdn/"]),
    status=st.sampled_from(
        [None, None, 200, 201, 204, 206, 301, 302, 304, 308, 400, 401, 403, 404, 416, 429, 503, 599]
    ),
    headers=headers,
)
def test_headers_and_statuses_at_random_end_in_one_error_or_a_model(online, cache, pattern, status, headers):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(retry, "LONGEST", 0.01)
        patch.setattr(constants, "HF_HUB_DOWNLOAD_TIMEOUT", 0.5)
        online.add(NAME, FILES)

        def change(answer: Answer) -> Answer:
            return Answer(answer.status if status is None else status, answer.body, {**answer.headers, **headers})

        online.changes = [(pattern, change)]
        one_error(cache)
        online.changes = []
        assert one_error(cache) is None


@pytest.mark.usefixtures("impatient")
@pytest.mark.parametrize("pattern", ["/revision/", "/tree/", "/cdn/"])
def test_a_body_of_one_byte_now_and_then_is_too_slow(online, cache, pattern):
    online.add(NAME, FILES)

    def slowly() -> Iterator[bytes]:
        end = time.monotonic() + 2 * WAIT
        while time.monotonic() < end:
            time.sleep(0.02)
            yield b" "

    online.alter(pattern, lambda _: Answer(200, b"", {}, slowly()))
    error = one_error(cache)
    assert error is not None
    assert "too slowly: less than 1000 bytes a second" in error.problem
    assert len([path for path in online.paths() if re.search(pattern, path)]) <= 3 * retry.SLOW_TRIES  # files at once


@pytest.mark.usefixtures("online", "impatient")
@pytest.mark.parametrize(
    "sent", [b"", b"HTTP/1.1 200 OK\r\nX: ", b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5;"]
)
def test_a_head_without_an_end_is_too_slow(cache, monkeypatch, sent):
    """Bytes come, so the socket never times out, but the network library has nothing to hand over."""
    stop = threading.Event()

    def drip(connection: socket.socket) -> None:
        with connection:
            try:
                connection.recv(10_000)
                connection.sendall(sent)
                while not stop.wait(0.05):
                    connection.sendall(b"x" if sent else b"")
            except OSError:
                return

    def serve(listening: socket.socket) -> None:
        while not stop.is_set():
            with suppress(TimeoutError):
                threading.Thread(target=drip, args=(listening.accept()[0],), daemon=True).start()

    with socket.create_server(("127.0.0.1", 0)) as listening:
        listening.settimeout(0.1)
        serving = threading.Thread(target=serve, args=(listening,), daemon=True)
        serving.start()
        monkeypatch.setattr(constants, "ENDPOINT", f"http://127.0.0.1:{listening.getsockname()[1]}")
        error = one_error(cache)
        stop.set()
        serving.join()
    assert error is not None
    assert "too slowly" in error.problem


def test_pages_without_end_are_given_up(online, cache):
    online.add(NAME, FILES)
    count = iter(range(10**9))

    def another(_: Answer) -> Answer:
        link = f'<{online.url}/api/models/{NAME}/tree/main?cursor={next(count)}>; rel="next"'
        return Answer(200, b"[]", {"Link": link})

    online.alter("/tree/", another)
    error = one_error(cache)
    assert error is not None
    assert "its list of owner/name has no end" in error.problem
    assert next(count) == listing.PAGES


def test_a_page_that_names_itself_is_asked_for_once(online, cache):
    online.add(NAME, FILES)
    online.alter("/tree/", lambda _: Answer(200, b"[]", {"Link": f'<{online.url}/tree/x>; rel="next"'}))
    assert "has no end" in str(one_error(cache))
    assert len([path for path in online.paths() if "/tree/" in path]) == 2


def test_a_listing_without_end_is_cut_short(online, cache):
    online.add(NAME, FILES)
    sent = 0

    def endless() -> Iterator[bytes]:
        nonlocal sent
        yield b"["
        while True:
            sent += 100_000
            yield b"0," * 50_000

    online.alter("/tree/", lambda _: Answer(200, b"", {}, endless()))
    error = one_error(cache)
    assert error is not None
    assert "longer than" in error.problem
    assert sent < 30_000_000  # what sockets and the queue hold


@pytest.mark.parametrize("pattern", ["/revision/", "/tree/", "/resolve/.*config"])
def test_what_unfolds_to_gigabytes_is_not_unfolded(online, cache, pattern):
    packed = gzip.compress(bytes(200_000_000), 1)  # 900 kB
    online.add(NAME, FILES)
    online.alter(pattern, lambda _: Answer(200, packed, {"Content-Encoding": "gzip"}))
    error = one_error(cache)
    assert error is not None
    assert not [path for path in cache.rglob("*") if path.is_file() and path.stat().st_size > 2 * 2**20]


def test_a_body_packed_although_nobody_asked_is_unpacked(online, cache):
    online.add(NAME, FILES)

    def pack(answer: Answer) -> Answer:
        return Answer(answer.status, gzip.compress(answer.body), {**answer.headers, "Content-Encoding": "gzip"})

    online.alter("/revision/|/tree/|/cdn/", pack)
    assert one_error(cache) is None


def test_a_cut_and_then_another_range_for_ever_is_given_up(online, cache):
    online.add(NAME, FILES)
    plan = hub.plan(NAME)
    digest = next(file.digest for file in plan.files if file.path == WEIGHTS)

    def wrong(answer: Answer) -> Answer:
        if answer.status == 206:
            return Answer(206, answer.body, {**answer.headers, "Content-Range": "bytes 7-9/100000"})
        return answer

    online.cut(f"/cdn/{digest}", after=50_000, times=10**9)
    online.alter("/cdn/", wrong)
    assert one_error(cache) is not None
    assert len([path for path in online.paths() if digest in path]) <= 2 * transfer.REQUESTS


def test_one_byte_more_each_time_is_given_up(online, cache):
    online.add(NAME, FILES)
    plan = hub.plan(NAME)
    digest = next(file.digest for file in plan.files if file.path == WEIGHTS)
    online.cut(f"/cdn/{digest}", after=1, times=10**9)
    error = one_error(cache)
    assert error is not None
    assert "broke off too often" in error.problem
    assert len([path for path in online.paths() if f"/cdn/{digest}" in path]) == transfer.REQUESTS


@pytest.mark.parametrize("status", [200, 206, 416])
def test_no_range_that_was_asked_for_is_said_as_it_is(online, cache, status):
    online.add(NAME, FILES)
    online.alter("/resolve/.*config|/cdn/", lambda _: Answer(status, b"", {"Content-Range": "bytes */1"}))
    error = one_error(cache)
    assert error is not None
    assert "cannot be written" not in str(error)
    if status == 416:
        assert "has no byte 0" in error.problem


def sent_tokens(server: HubServer, pattern: str) -> set[str | None]:
    return {asked.headers.get("authorization") for asked in server.requests if re.search(pattern, asked.path)}


def test_a_next_page_of_another_origin_gets_no_token(online, cache, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    online.add(NAME, FILES)
    elsewhere = online.cdn_url  # the same server under another name

    def lead_away(answer: Answer) -> Answer:
        return Answer(200, answer.body, {"Link": answer.headers.get("Link", "").replace(online.url, elsewhere)})

    online.alter(r"/tree/[^?]*\?(?!.*cursor)", lead_away)
    assert one_error(cache) is None
    assert sent_tokens(online, r"/tree/[^?]*\?(?!.*cursor)") == {f"Bearer {TOKEN}"}
    assert sent_tokens(online, r"/tree/.*cursor") == {None}


@pytest.mark.parametrize("pattern", ["/revision/", "/tree/", "/resolve/"])
def test_a_redirect_to_another_origin_gets_no_token(online, cache, monkeypatch, pattern):
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    online.add(NAME, FILES)
    with HubServer() as other:
        other.add(NAME, FILES)
        online.alter(pattern, lambda _: Answer(307, b"", {"Location": f"{other.url}/elsewhere"}))
        assert one_error(cache) is not None
        assert other.requests
        assert sent_tokens(other, "") == {None}


@pytest.mark.parametrize("target", ["", "file:///etc/passwd", "ftp://127.0.0.1/x", "http://[", "http://\xe9/"])
def test_a_redirect_to_nowhere_is_said(online, cache, target):
    online.add(NAME, FILES)
    online.alter("/revision/", lambda _: Answer(302, b"", {"Location": target}))
    assert "names an address that is none" in str(one_error(cache))


def test_redirects_without_end_are_given_up(online, cache):
    online.add(NAME, FILES)
    online.alter("/revision/", lambda _: Answer(302, b"", {"Location": "/api/models/a/b/revision/main"}))
    assert "redirects without end" in str(one_error(cache))
    assert len(online.requests) == client.REDIRECTS + 1


def test_encryption_is_not_given_up():
    with pytest.raises(MlxdiffError, match="encrypted"):
        client.followed("https://huggingface.co/a", "http://huggingface.co/a")
    assert client.followed("http://a/b", "https://c/d") == "https://c/d"


@pytest.mark.parametrize("token", ["hf_a\nb", "hf_é", "", "hf a", "hf_\x7f", "\n"])
@pytest.mark.parametrize("given", [True, False])
def test_a_token_that_cannot_be_sent_is_named(online, monkeypatch, token, given):
    online.add(NAME, FILES)
    if given:
        with pytest.raises(RequestError, match=r"The access token that was given (is empty|holds a)") as caught:
            hub.plan(NAME, token=token)
        assert not token.strip() or token not in str(caught.value)
    elif token.strip():
        monkeypatch.setenv("HF_TOKEN", token)
        with pytest.raises(MlxdiffError, match=r"token in HF_TOKEN.* holds a"):
            hub.plan(NAME)
    else:
        monkeypatch.setenv("HF_TOKEN", token)
        hub.plan(NAME)
        return
    assert not online.requests


def test_a_whole_list_of_huge_configs_is_refused_before_anything_comes(online, cache):
    online.add(NAME, FILES)
    online.alter("/tree/", in_json(of_entry("unet/config.json", "size", value=10**10)))
    error = one_error(cache)
    assert error is not None
    assert "10,000,000,000 bytes, too many for a config" in error.problem
    assert not cache.exists()


def test_a_cookie_is_not_kept(online, cache):
    """A letter in it that no header can carry would end every later question of this process."""
    online.add(NAME, FILES)
    online.alter("/revision/", lambda answer: Answer(200, answer.body, {"Set-Cookie": "a=\x9b31m; Path=/"}))
    assert one_error(cache) is None
    assert one_error(cache) is None
    assert not any("cookie" in {key.lower() for key in asked.headers} for asked in online.requests)


def test_nothing_but_the_listing_is_asked_before_a_plan(online, monkeypatch):
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_TELEMETRY", False)
    online.add(NAME, FILES)
    hub.plan(NAME)
    assert {path.split("/")[5] for path in online.paths()} == {"revision", "tree"}


@pytest.mark.parametrize("code", ["RepoNotFound", "RepositoryNotFound"])
def test_the_hubs_own_word_for_no_repository(online, code):
    online.fail("/api/models/", 404, times=9, X_Error_Code=code)
    with pytest.raises(ModelNotFoundError, match="no repository owner/name"):
        hub.plan(NAME)


def test_zeros_of_the_right_size_are_not_ready(online):
    online.add(NAME, FILES)
    snapshot = hub.pull(hub.plan(NAME))
    blob = (snapshot.path / WEIGHTS).resolve()
    status = blob.stat()
    blob.write_bytes(bytes(len(FILES[WEIGHTS])))
    os.utime(blob, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert hub.plan(NAME).missing == 0  # sizes say nothing
    hub.pull(hub.plan(NAME))
    assert blob.read_bytes() == FILES[WEIGHTS]


@pytest.mark.parametrize("offline", [True, False])
def test_zeros_behind_a_commit_are_not_ready(online, monkeypatch, offline):
    commit = online.add(NAME, FILES)
    snapshot = hub.pull(hub.plan(NAME))
    (snapshot.path / WEIGHTS).resolve().write_bytes(bytes(len(FILES[WEIGHTS])))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", offline)
    if offline:
        with pytest.raises(CheckpointError, match=f"{WEIGHTS} .*damaged"):
            hub.pull(hub.plan(NAME))
    else:
        hub.pull(hub.plan(f"{NAME}@{commit}"))
        assert (snapshot.path / WEIGHTS).read_bytes() == FILES[WEIGHTS]


def test_a_blob_left_by_somebody_is_read_before_it_is_shown(online):
    online.add(NAME, FILES)
    plan = hub.plan(NAME)
    digest = next(file.digest for file in plan.files if file.path == WEIGHTS)
    blob = plan.folder.parents[1] / "blobs" / digest
    blob.parent.mkdir(parents=True)
    blob.write_bytes(bytes(len(FILES[WEIGHTS])))
    hub.pull(hub.plan(NAME))
    assert hashlib.sha256(blob.read_bytes()).hexdigest() == digest
