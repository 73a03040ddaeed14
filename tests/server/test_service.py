"""Who may ask, who waits, what is cancelled, and how a server ends."""

from __future__ import annotations

import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
from killing import THREADS
from patience import WAIT
from program import mlxdiff
from server_client import LIMITS, serving

from mlxdiff import StableDiffusion
from mlxdiff.errors import BackendError, MlxdiffError, RequestError
from mlxdiff.request import Request
from mlxdiff.server import Limits, Service, access, connection, service

TXT2IMG = "/sdapi/v1/txt2img"
LONG = {"prompt": "a cat", "steps": 1000, "width": 64, "height": 64}
TOKEN = "not-to-be-guessed"


def until(holds):
    end = time.monotonic() + WAIT
    while not holds():
        assert time.monotonic() < end, "it did not come about"
        time.sleep(0.01)


def step_of(server) -> int:
    return server.get("/sdapi/v1/progress")[1]["state"]["sampling_step"]


def test_requests_wait_for_each_other_and_no_more_than_may_wait(server):
    with ThreadPoolExecutor(2) as pool:
        first = pool.submit(server.post, TXT2IMG, LONG)
        until(lambda: step_of(server) > 0)
        second = pool.submit(server.post, TXT2IMG, {**LONG, "steps": 2})
        until(lambda: server.get("/sdapi/v1/progress")[1]["state"]["job_count"] == 2)
        status, answer, headers = server.ask(
            "POST", "/v1/images/generations", json.dumps({"prompt": "x"}), {"Content-Type": "application/json"}
        )
        assert (status, answer["error"]["code"]) == (503, "queue_full")
        assert 1 <= int(headers["Retry-After"]) <= 600
        assert server.post("/sdapi/v1/interrupt", "") == (200, {})
        status, answer = first.result()
        assert (status, answer["images"]) == (200, [])
        assert "Interrupted: 0 of 1 pictures are done." in answer["warnings"]
        status, answer = second.result()
        assert (status, len(answer["images"])) == (200, 1)
    assert server.post(TXT2IMG, {**LONG, "steps": 2})[0] == 200


def asking(server, body: dict) -> socket.socket:
    data = json.dumps(body).encode()
    head = f"POST {TXT2IMG} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
    sock = socket.create_connection(("127.0.0.1", server.port))
    sock.sendall(f"{head}Content-Length: {len(data)}\r\n\r\n".encode() + data)
    return sock


def jobs(server) -> int:
    return server.get("/sdapi/v1/progress")[1]["state"]["job_count"]


def test_a_client_that_hangs_up_ends_its_job(server):
    with asking(server, LONG):
        until(lambda: step_of(server) > 0)
    until(lambda: jobs(server) == 0)
    assert server.post(TXT2IMG, {**LONG, "steps": 2})[0] == 200
    assert any("txt2img: the client hung up" in line for line in server.said)


def test_an_interrupted_openai_client_gets_what_is_done_or_is_told_not_to_try_again(server):
    with ThreadPoolExecutor(1) as pool:
        asked = {"prompt": "a cat", "steps": 1000, "n": 1}
        first = pool.submit(
            server.ask,
            *("POST", "/v1/images/generations", json.dumps(asked), {"Content-Type": "application/json"}),
        )
        until(lambda: step_of(server) > 0)
        server.post("/sdapi/v1/interrupt", "")
        status, _, headers = first.result()
    assert (status, headers["X-Should-Retry"]) == (409, "false")


def test_what_is_served_has_to_be_renderable(tmp_path):
    for base, words in (
        (Request(model="emoji", lora="nix"), "no LoRA"),  # type: ignore[arg-type]
        (Request(model="emoji", steps=1000), "1000 steps"),
        (Request(model="emoji", refiner=str(tmp_path)), "no model"),
    ):
        service = Service(base, port=0)
        with pytest.raises(MlxdiffError, match=words):
            service.start()


def test_a_client_that_hangs_up_while_it_waits_makes_room_at_once(server):
    with ThreadPoolExecutor(1) as pool:
        first = pool.submit(server.post, TXT2IMG, LONG)
        until(lambda: step_of(server) > 0)
        with asking(server, LONG):
            until(lambda: jobs(server) == 2)
            assert server.post(TXT2IMG, LONG)[0] == 503
        until(lambda: jobs(server) == 1)
        with asking(server, LONG):
            until(lambda: jobs(server) == 2)
        until(lambda: jobs(server) == 1)
        server.post("/sdapi/v1/interrupt", "")
        assert first.result()[0] == 200


def test_a_wrong_token_is_answered_after_a_while_and_in_the_log_with_its_address(monkeypatch):
    monkeypatch.setattr(access, "WRONG_S", 0.5)
    with serving(token=TOKEN) as server:
        began = time.monotonic()
        assert server.get("/v1/models", Authorization="Bearer guessed")[0] == 401
        assert time.monotonic() - began >= 0.5
        assert server.get("/v1/models")[0] == 401
        assert server.get("/v1/models", Authorization=f"Bearer {TOKEN}")[0] == 200
        until(lambda: len(server.said) == 3)
        assert all("from 127.0.0.1: The token is missing or wrong." in line for line in server.said[:2])
        assert "127.0.0.1" not in server.said[2]


def test_with_a_token_only_who_knows_it_is_answered(monkeypatch):
    import base64

    monkeypatch.setattr(access, "WRONG_S", 0.0)
    basic = base64.b64encode(f"me:{TOKEN}".encode()).decode()
    with serving(token=TOKEN) as server:
        for path in ("/v1/models", "/sdapi/v1/options", "/nowhere"):
            for sent in ("", "Bearer", f"Bearer {TOKEN}x", TOKEN, "Basic !", f"Basic {basic[:-4]}", "Bearer \xe9"):
                status, answer, headers = server.ask("GET", path, headers={"Authorization": sent} if sent else {})
                assert status == 401
                assert headers["WWW-Authenticate"]
                assert TOKEN not in str(answer)
        for sent in (f"Bearer {TOKEN}", f"bearer {TOKEN}", f"Basic {basic}"):
            assert server.get("/v1/models", Authorization=sent)[0] == 200
        asked = {"prompt": "a cat"}
        _, answer = server.post("/v1/images/generations", asked, Authorization=f"Bearer {TOKEN}")
        url = answer["data"][0]["url"]
        assert server.get(url[url.index("/v1") :])[0] == 200, "its name is a secret of its own"
        assert server.get("/v1/models", Host="example.com", Authorization=f"Bearer {TOKEN}")[0] == 200


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"Host": "evil.example"}, 403),
        ({"Host": "evil.example:7860"}, 403),
        ({"Host": "localhost.evil.example"}, 403),
        ({"Host": "127.0.0.1.evil.example"}, 403),
        ({"Host": "192.168.1.5"}, 403),
        ({"Host": "localhost@evil"}, 400),
        ({"Host": "localhost:99"}, 200),
        ({"Host": "LOCALHOST"}, 200),
        ({"Host": "127.9.9.9"}, 200),
        ({"Host": "[::1]:7860"}, 200),
        ({"Host": "localhost", "Origin": "http://localhost"}, 200),
        ({"Host": "localhost", "Origin": "http://localhost:3000"}, 403),
        ({"Host": "localhost", "Origin": "https://evil.example"}, 403),
        ({"Host": "localhost", "Origin": "null"}, 403),
        ({"Host": "localhost", "Origin": "http://[x"}, 403),
        ({"Host": "localhost", "Sec-Fetch-Site": "cross-site"}, 403),
        ({"Host": "localhost", "Sec-Fetch-Site": "same-site"}, 403),
    ],
)
def test_web_pages_and_foreign_names_are_refused(server, headers, status):
    assert server.ask("POST", "/sdapi/v1/interrupt", "", headers)[0] == status


def test_other_machines_need_a_token_and_a_token_has_a_length():
    for host in ("0.0.0.0", "", "::", "192.168.1.5"):
        with pytest.raises(RequestError, match="keep them out"):
            Service(Request(model="emoji"), host=host, port=0)
    for token in ("", "short", "with\nline", "\u00e9" * 9):
        with pytest.raises(RequestError, match="letters or more"):
            Service(Request(model="emoji"), token=token, port=0)


def test_a_port_that_is_taken_is_said(server):
    with pytest.raises(BackendError, match=f"port {server.port} of 127.0.0.1 .*another --port"):
        Service(Request(model="emoji"), port=server.port)


@pytest.mark.parametrize("host", ["203.0.113.7", "no.such.host.invalid", "", "a" * 70 + ".invalid"])
def test_a_host_that_is_not_this_machine_is_said_and_not_blamed_on_the_port(host):
    with pytest.raises(BackendError, match="Give --host an address of this machine"):
        Service(Request(model="emoji"), host=host, port=0, token=TOKEN)


def test_ipv6_is_listened_on_in_either_spelling():
    for host in ("::1", "[::1]"):
        try:
            service = Service(Request(model="emoji"), host=host, port=0)
        except BackendError as error:
            pytest.skip(str(error))  # a machine without IPv6
        assert service.address.startswith("http://[::1]:")
        service._socket.server_close()


def test_no_more_connections_than_there_are_threads_for(server, monkeypatch):
    monkeypatch.setattr(server.service._socket, "most", 2)
    until(lambda: server.service._socket.busy == 0)
    held = [socket.create_connection(("127.0.0.1", server.port), timeout=WAIT) for _ in range(2)]
    until(lambda: server.service._socket.busy == 2)
    assert server.raw(b"") == b""
    for sock in held:
        sock.close()
    until(lambda: server.service._socket.busy == 0)
    assert server.get("/")[0] == 200


def test_pictures_that_were_kept_give_way(monkeypatch):
    from mlxdiff.server import kept

    monkeypatch.setattr(kept, "MOST", 2)
    held = kept.Kept()
    names = [held.keep(bytes([i]), "image/png", ".png") for i in range(1, 4)]
    assert [held.find(name) is not None for name in names] == [False, True, True]
    monkeypatch.setattr(kept, "SECONDS", 0.0)
    assert held.find(names[2]) is None


def test_an_unforeseen_error_is_told_to_the_operator_and_not_to_the_client(server, monkeypatch):
    monkeypatch.setattr(server.service.worker, "_render", lambda _: 1 / 0)
    status, answer = server.post("/v1/images/generations", {"prompt": "x"})
    assert status == 500
    assert "ZeroDivisionError" in answer["error"]["message"]
    assert "Traceback" not in answer["error"]["message"]
    assert [str(error) for error in server.failed] == ["division by zero"]
    monkeypatch.undo()
    assert server.post("/v1/images/generations", {"prompt": "x"})[0] == 200


@pytest.fixture
def held(monkeypatch):
    """Whatever is rendered waits after each step until this event is set."""
    go, render = threading.Event(), StableDiffusion.render

    def slowly(sd, request, *, on_step):
        def look(step):
            on_step(step)
            assert go.wait(WAIT)

        return render(sd, request, on_step=look)

    monkeypatch.setattr(StableDiffusion, "render", slowly)
    yield go
    go.set()


def stop(server) -> None:
    """Tells the server to end, and waits until nothing new is begun."""
    server.service.stop()
    until(lambda: server.service.worker._stopped)


def test_a_server_that_ends_finishes_the_picture_at_hand_and_refuses_those_that_wait(held):
    limits = Limits(queue=2, images=4, steps=2000, pixels=LIMITS.pixels)
    with serving(limits=limits) as server, ThreadPoolExecutor(2) as pool:
        first = pool.submit(server.post, TXT2IMG, {**LONG, "steps": 15})
        until(lambda: step_of(server) > 0)
        second = pool.submit(server.post, TXT2IMG, LONG)
        until(lambda: server.get("/sdapi/v1/progress")[1]["state"]["job_count"] == 2)
        stop(server)
        held.set()
        assert first.result()[0] == 200
        assert second.result()[0] == 503


def test_pictures_that_were_not_begun_are_left_out_when_a_server_ends(monkeypatch, held):
    monkeypatch.setattr(StableDiffusion, "batch_size", lambda *_: 1)
    with serving() as server, ThreadPoolExecutor(1) as pool:
        first = pool.submit(server.post, TXT2IMG, {**LONG, "steps": 10, "batch_size": 4})
        until(lambda: step_of(server) > 0)
        stop(server)
        held.set()
        status, answer = first.result()
    assert (status, len(answer["images"])) == (200, 1)
    assert "Interrupted: 1 of 4 pictures are done." in answer["warnings"]


def test_a_server_that_ends_does_not_wait_for_clients_that_ask_nothing(monkeypatch):
    for module, name in ((service, "END_S"), (connection, "IDLE_S"), (connection, "SILENT_S")):
        monkeypatch.setattr(module, name, 2.0 * WAIT)
    with serving() as server:
        idle = http.client.HTTPConnection("127.0.0.1", server.port, timeout=WAIT)
        idle.request("GET", "/")
        answer = idle.getresponse()
        answer.read()
        assert answer.headers["Connection"] == "keep-alive"
        fresh = socket.create_connection(("127.0.0.1", server.port), timeout=WAIT)
        until(lambda: server.service._socket.busy == 2)
        server.service.stop()
        for sock in (idle.sock, fresh):
            assert sock.recv(10) == b"", "it is closed"
            sock.close()


def test_the_program_serves_until_it_is_interrupted(tmp_path):
    config = tmp_path / "config.toml"  # what belongs to each request is not the server's
    config.write_text('n_images = 3\nimage = "gone.png"\ncontrol = ["emoji-edges=gone.png"]\n')
    command = [sys.executable, "-m", "mlxdiff", "serve", "--port", "0", "-m", "emoji", "--steps", "2", "--width", "32"]
    with subprocess.Popen(
        [*command, "--height", "32", "--queue", "0"],
        cwd=tmp_path,
        env={**os.environ, **THREADS, "MLXDIFF_CONFIG": str(config)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        address = process.stdout.readline().strip()
        import urllib.request

        ask = urllib.request.Request(
            f"{address}{TXT2IMG}", b'{"prompt": "a \\u001b[2Jcat"}', {"Content-Type": "application/json"}
        )
        with urllib.request.urlopen(ask, timeout=WAIT) as answer:
            assert len(json.load(answer)["images"]) == 1
        process.send_signal(signal.SIGINT)
        _, said = process.communicate(timeout=WAIT)
    assert process.returncode == 0, said
    assert f"POST {TXT2IMG} 200" in said
    assert "Traceback" not in said
    assert "\x1b" not in said


BROKEN = """
import sys
from mlxdiff.server.worker import Worker
from mlxdiff.cli.app import main
Worker._render = lambda self, job: 1 / 0
sys.argv = ["mlxdiff", "serve", "-m", "emoji", "--port", "0", sys.argv[1]]
main()
"""


@pytest.mark.parametrize(("option", "lines"), [("--quiet", 1), ("-v", 10)])
def test_an_unforeseen_error_is_on_stderr_also_when_quiet_and_with_v_line_by_line(option, lines, tmp_path):
    with subprocess.Popen(
        [sys.executable, "-c", BROKEN, option],
        cwd=tmp_path,
        env={**os.environ, **THREADS},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        port = int(process.stdout.readline().rpartition(":")[2])
        asked = http.client.HTTPConnection("127.0.0.1", port, timeout=WAIT)
        asked.request("POST", TXT2IMG, b'{"prompt": "x"}', {"Content-Type": "application/json"})
        assert asked.getresponse().status == 500
        asked.close()
        process.send_signal(signal.SIGINT)
        _, said = process.communicate(timeout=WAIT)
    assert "An unexpected error ended a request (ZeroDivisionError: division by zero)." in said
    assert ("\nZeroDivisionError: division by zero\n" in said) == (option == "-v")
    assert len(said.splitlines()) >= lines


SLOW = """
import sys, time
from mlxdiff.batch.models import Models
from mlxdiff.cli.app import main
def use(self, model):
    print("loading", flush=True)
    time.sleep(600)
Models.use = use
sys.argv = ["mlxdiff", "serve", "-m", "emoji", "--port", "0"]
main()
"""


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_server_that_is_interrupted_while_it_loads_ends_at_once(number, code, tmp_path):
    with subprocess.Popen(
        [sys.executable, "-c", SLOW],
        cwd=tmp_path,
        env={**os.environ, **THREADS},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "loading\n"
        process.send_signal(number)
        _, said = process.communicate(timeout=WAIT)
    assert (process.returncode, said) == (code, "Interrupted.\n")


def test_wrong_usage_of_the_program(tmp_path):
    done = mlxdiff("serve", "--host", "0.0.0.0", cwd=tmp_path, code=2)
    assert "MLXDIFF_TOKEN" in done.stderr
    assert "from 0 to 65535" in mlxdiff("serve", "--port", "99999", cwd=tmp_path, code=2).stderr
    assert "No such option: --image" in mlxdiff("serve", "--image", "x.png", cwd=tmp_path, code=2).stderr
    done = mlxdiff("serve", "-m", "nobody/nothing", "--port", "0", cwd=tmp_path, code=1)
    assert "nobody/nothing is not in the cache" in done.stderr
    assert "mlxdiff pull" in done.stderr
