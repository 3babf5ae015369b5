"""Who may ask: keys, names of the server, pages of other sites; and clients that are too slow, too many or too loud."""

import io
import json
import socket
import time
from dataclasses import replace

import pytest
from serving import SETTINGS, encoded, running, until

from mixonomy.serve.logs import LOGGER, start_logs
from mixonomy.serve.settings import Settings, read_keys

KEY, OTHER = "k" * 32, "o" * 32
OPEN = ("/healthz", "/readyz")
SLOW = replace(SETTINGS, header_timeout_s=0.4, body_timeout_s=0.6)


@pytest.fixture(scope="module")
def locked():
    with running(replace(SETTINGS, api_keys=(KEY, OTHER))) as found:
        yield found[0]


@pytest.fixture(scope="module")
def served():
    with running() as found:
        yield found[0]


@pytest.fixture(scope="module")
def hurried():
    with running(SLOW) as found:
        yield found[0]


def routes(client):
    for path, methods in client.get("/openapi.json").json()["paths"].items():
        yield from ((method, path) for method in methods if path not in OPEN)


@pytest.mark.parametrize("header", [None, "", "Bearer", f"Bearer {KEY}x", f"Bearer {KEY[:-1]}", f"Basic {KEY}", KEY])
def test_a_wrong_key_is_refused_on_every_route_that_needs_one(header, locked):
    found = list(routes(locked))
    assert len(found) == 6
    for method, path in found:
        headers = {} if header is None else {"authorization": header}
        answer = locked.request(method, path, headers=headers, content=b"not even looked at")
        assert answer.status_code == 401 and answer.headers["www-authenticate"] == "Bearer", (method, path)


@pytest.mark.parametrize("key", [KEY, OTHER])
def test_each_of_the_keys_opens_every_route(key, locked):
    for method, path in routes(locked):
        answer = locked.request(method, path, headers={"authorization": f"bearer {key}"}, content=encoded())
        assert answer.status_code == 200, (path, answer.text)


def test_the_page_and_the_state_need_no_key(locked):
    for path in ("/", "/docs", "/openapi.json", "/static/page.js", *OPEN):
        assert locked.get(path).status_code == 200
    assert "tiny" not in locked.get("/openapi.json").text  # nor do they tell which model it is


@pytest.mark.parametrize("host", ["evil.example", "localhost.evil.example", "127.0.0.1.nip.io", "", "[::1", "a b"])
def test_a_local_server_answers_to_its_own_names_only(host, served):
    assert served.get("/healthz", headers={"host": host}).status_code in (400, 421)


@pytest.mark.parametrize("host", ["localhost", "localhost:8000", "127.0.0.1", "[::1]:80"])
def test_names_of_this_machine_are_its_own(host, served):
    assert served.get("/healthz", headers={"host": host}).status_code == 200


def test_other_names_are_allowed_in_any_case_and_those_of_loopback_stay():
    with running(replace(SETTINGS, host="0.0.0.0", allowed_hosts=("Classify.Example.org", "::2"))) as (client, _):
        for host in ("classify.example.org", "CLASSIFY.example.org:80", "127.0.0.1:8000", "localhost", "[::2]:80"):
            assert client.get("/healthz", headers={"host": host}).status_code == 200, host
        assert client.get("/healthz", headers={"host": "evil.example"}).status_code == 421


def test_every_address_of_loopback_is_local_and_its_own_name():
    assert Settings(host="127.0.0.2").hosts == ("127.0.0.2", "localhost", "127.0.0.1", "[::1]")
    assert Settings(host="::1").hosts[0] == "[::1]" and Settings(host="LOCALHOST").hosts[0] == "localhost"
    assert Settings(host="0.0.0.0").hosts == () and not Settings(host="192.168.0.1").is_local


def test_pages_of_other_sites_are_refused_and_what_is_answered_is_guarded(served):
    other = served.post("/v1/predict", content=encoded(), headers={"sec-fetch-site": "cross-site"})
    assert other.status_code == 403 and "access-control-allow-origin" not in other.headers
    own = served.post("/v1/predict", content=encoded(), headers={"sec-fetch-site": "same-origin"})
    assert own.status_code == 200 and own.headers["x-content-type-options"] == "nosniff"
    assert "default-src 'none'" in served.get("/").headers["content-security-policy"]


def exchange(client, *pieces: bytes, pause: float = 0.0) -> bytes:
    """What the server says until it closes, to pieces of a request with pauses between."""
    with socket.create_connection((client.base_url.host, client.base_url.port), timeout=10) as raw:
        for piece in pieces:
            try:
                raw.sendall(piece)
            except OSError:
                break
            time.sleep(pause)
        answer = b""
        try:
            while piece := raw.recv(65536):
                answer += piece
        except ConnectionResetError:
            pass
        return answer


def test_headers_that_never_end_are_cut_off(hurried):
    begun = time.monotonic()
    answer = exchange(hurried, b"POST /v1/predict HTTP/1.1\r\n", *[b"a: b\r\n"] * 100, pause=0.05)
    assert b" 408 " in answer.split(b"\r\n")[0] and time.monotonic() - begun < 8


def test_a_body_that_trickles_is_cut_off(hurried):
    begun = time.monotonic()
    head = b"POST /v1/predict HTTP/1.1\r\nhost: localhost\r\ncontent-length: 1000\r\n\r\n"
    answer = exchange(hurried, head, *[b"x"] * 100, pause=0.05)
    assert b" 408 " in answer.split(b"\r\n")[0] and time.monotonic() - begun < 8
    refused = exchange(hurried, head.replace(b"predict", b"nothing"), *[b"x"] * 100, pause=0.05)
    assert b" 404 " in refused.split(b"\r\n")[0]  # and the rest is not read for ever either


def test_a_connection_on_which_nothing_comes_is_closed(hurried):
    assert b" 408 " in exchange(hurried)


@pytest.mark.parametrize(
    "request_line",
    [b"\x16\x03\x01 tls", b"G\x00T / HTTP/1.1", b"GET /" + 70_000 * b"a" + b" HTTP/1.1"],
)
def test_what_is_no_http_gets_400(request_line, served):
    answer = exchange(served, request_line + b"\r\n\r\n")
    assert b" 400 " in answer.split(b"\r\n")[0] and b"error" in answer


def test_huge_headers_get_400(served):
    assert b" 400 " in exchange(served, b"GET /healthz HTTP/1.1\r\na: " + 10**5 * b"b" + b"\r\n\r\n").split(b"\r\n")[0]


def test_connections_above_the_limit_are_turned_away_and_the_others_go_on():
    with running(replace(SETTINGS, max_connections=4)) as (client, _):
        address = (client.base_url.host, client.base_url.port)
        held = [socket.create_connection(address, timeout=10) for _ in range(8)]
        try:
            first = [raw.recv(100).split(b"\r\n")[0] for raw in held[-4:]]
            assert all(b" 503 " in line for line in first), first
            held[0].sendall(b"GET /healthz HTTP/1.1\r\nhost: localhost\r\n\r\n")
            assert b" 200 " in held[0].recv(100)
        finally:
            for raw in held:
                raw.close()
        until(lambda: client.get("/healthz").status_code == 200)


def test_a_client_that_sends_no_more_is_answered(served):
    body = encoded()
    with socket.create_connection((served.base_url.host, served.base_url.port), timeout=10) as raw:
        raw.sendall(b"POST /v1/predict HTTP/1.1\r\nhost: localhost\r\ncontent-length: %d\r\n\r\n" % len(body) + body)
        raw.shutdown(socket.SHUT_WR)
        answer = raw.makefile("rb").read()
    assert b" 200 " in answer.split(b"\r\n")[0] and b"classes" in answer


def test_pipelined_requests_are_all_answered(served):
    one = b"GET /healthz HTTP/1.1\r\nhost: localhost\r\n"
    answer = exchange(served, one + b"\r\n" + one + b"\r\n" + one + b"connection: close\r\n\r\n")
    assert answer.count(b'{"status":"ok"}') == 3


def test_logs_tell_of_requests_and_nothing_of_images(served):
    stream = io.StringIO()
    start_logs(stream)
    try:
        parts = [("image", ("secret-name.png", encoded())), ("image", ("b.txt", b"secret words"))]
        served.post("/v1/predict?top=3", files=parts, headers={"authorization": "Bearer secret-key-of-mine"})
        served.get("/nothing/secret")
    finally:
        LOGGER.handlers.clear()
    lines = [json.loads(line) for line in stream.getvalue().splitlines()]
    known = [(line["route"], line["status"], line["images"]) for line in lines]
    assert known == [("/v1/predict", 200, 2), ("unknown", 404, 0)]
    assert "secret" not in stream.getvalue() and {"time", "level", "event", "ms"} <= lines[0].keys()


def test_metrics_count_what_was_answered():
    with running() as (client, _):
        client.post("/v1/predict", files=[("a", encoded()), ("b", b"text")])
        client.post("/v1/predict", content=b"text")  # of which none can be read
        text = client.get("/metrics").text
    for line in (
        'mixonomy_requests_total{route="/v1/predict",status="200"} 1.0',
        'mixonomy_requests_total{route="/v1/predict",status="415"} 1.0',
        'mixonomy_images_total{outcome="answered"} 1.0',
        'mixonomy_images_total{outcome="unreadable"} 2.0',
        'mixonomy_stage_seconds_count{stage="model"} 1.0',
        "mixonomy_batch_images_count 1.0",
        "mixonomy_queue_images 0.0",
        "mixonomy_ready 1.0",
    ):
        assert line in text.splitlines(), line


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"max_queue": 0}, "max_queue is 0"),
        ({"workers": 0}, "workers is 0"),
        ({"max_wait_ms": -1.0}, "max_wait_ms"),
        ({"body_timeout_s": float("inf")}, "body_timeout_s"),
        ({"port": 70_000}, "port is 70000"),
        ({"max_images": 200}, "never be accepted"),
        ({"max_body_bytes": 2**40}, "never be accepted"),
        ({"allowed_hosts": ("classify.example.org:8000",)}, "without a port"),
        ({"allowed_hosts": ("https://a.example",)}, "without a port"),
        ({"allowed_hosts": ("",)}, "no name of a server"),
    ],
)
def test_settings_that_let_nothing_through_are_refused(changes, words):
    with pytest.raises(ValueError, match=words):
        Settings(**changes)


def test_keys_are_lines_of_a_file_and_weak_ones_are_refused(tmp_path):
    path = tmp_path / "keys"
    path.write_text(f"{KEY}\n\n  {OTHER}  \n")
    assert read_keys(path) == (KEY, OTHER) and KEY not in repr(Settings(api_keys=(KEY,)))
    for content in ("", "short\n", 20 * "ü" + "\n", "with a space in it " * 3):
        path.write_text(content)
        with pytest.raises(ValueError, match="openssl rand"):
            read_keys(path)
    path.write_bytes(b"\xff\xfe")
    with pytest.raises(ValueError, match="is no text"):
        read_keys(path)
