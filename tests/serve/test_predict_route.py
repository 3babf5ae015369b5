"""The answers of /v1/predict: the same as everywhere, and in which order requests are refused."""

import contextlib
import io
import json
import socket
import threading
import zlib
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from serving import (
    NAMES,
    SETTINGS,
    encoded,
    exported_model,
    image_files,
    pixels,
    running,
    tiny_model,
    unready,
    until,
)

import mixonomy as mx
from mixonomy.serve import engine as engines
from mixonomy.serve import images

FILES = image_files()


@pytest.fixture(scope="module")
def served():
    with running() as found:
        yield found


@pytest.fixture(scope="module")
def client(served):
    return served[0]


@pytest.mark.parametrize("kind", FILES)
def test_answers_are_those_of_predict(kind, client, tmp_path):
    path = tmp_path / "file"
    path.write_bytes(FILES[kind])
    (expected,) = mx.predict(tiny_model(), [path], top=5)
    assert expected.error is None
    answer = client.post("/v1/predict", content=FILES[kind]).raise_for_status().json()
    (found,) = answer["predictions"]
    assert [each["name"] for each in found["classes"]] == [name for name, _ in expected.classes]
    torch.testing.assert_close(
        torch.tensor([each["prob"] for each in found["classes"]]),
        torch.tensor([prob for _, prob in expected.classes]),
        rtol=0, atol=1e-4,
    )  # fmt: skip
    assert found["predicted"] == found["classes"][:1] and answer["model"] == "tiny"


def test_several_files_of_a_form_are_answered_in_order_and_one_that_cannot_be_read_stops_nothing(client):
    parts = [
        ("image", ("one.png", FILES["png"])),
        ("image", ("no.txt", b"text")),
        ("x", ("ünï.gif", FILES["animated"])),
    ]
    found = client.post("/v1/predict?top=2", files=parts).raise_for_status().json()["predictions"]
    assert [each["name"] for each in found] == ["one.png", "no.txt", "ünï.gif"]
    assert [len(each["classes"]) for each in found] == [2, 0, 2]
    assert found[1]["error"].startswith("not a readable image") and found[0]["error"] is None
    alone = client.post("/v1/predict?top=2", content=FILES["png"]).json()["predictions"][0]
    assert [each["name"] for each in found[0]["classes"]] == [each["name"] for each in alone["classes"]]
    assert found[0]["timing_ms"]["batch_size"] == 2 and alone["timing_ms"]["batch_size"] == 1


def bomb() -> bytes:
    file = io.BytesIO()
    Image.new("1", (30_000, 30_000)).save(file, "PNG")
    return file.getvalue()


def scans() -> bytes:
    return encoded("JPEG", progressive=True).replace(b"\xff\xd9", 80 * b"\xff\xda\x00\x02" + b"\xff\xd9")


def two_sizes(extra: bytes, end: int) -> bytes:
    """A JPEG of 1001 x 1000 pixels; of 16 x 16 for a reader to whom `extra` begins a segment that ends at `end`."""
    content = encoded("JPEG", Image.new("L", (1001, 1000)))
    first = content[:2] + extra + content[2:20]
    comment = bytes(end - len(first) - 4) + bytes.fromhex("ffc0000b080010001001011100")
    return first + b"\xff\xfe" + (len(comment) + 2).to_bytes(2) + comment + content[20:]


def directory(**tags: int) -> bytes:
    """Of a TIFF file, little-endian."""
    entries = [
        int(tag[1:]).to_bytes(2, "little") + b"\4\0\1\0\0\0" + n.to_bytes(4, "little") for tag, n in tags.items()
    ]
    return bytes([len(tags), 0]) + b"".join(entries) + bytes(4)


def tiff_and_film() -> bytes:
    """A TIFF of 16 x 16 white pixels, which is a film in Autodesk's format of 9000 x 9000 too."""
    size = (9000).to_bytes(2, "little")
    film = b"II*\0\x12\xaf\1\0" + size + size + b"\x08\0\x03\0" + bytes(112) + b"\x10\0\0\0\xfa\xf1" + bytes(10)
    tags = directory(t256=16, t257=16, t258=8, t259=1, t262=1, t273=200, t277=1, t278=16, t279=256)
    return (film.ljust(200, b"\0") + bytes([255]) * 256).ljust(0x1AF12, b"\0") + tags


def tiff_of_one_tile() -> bytes:
    """100 x 100 pixels of a tile of 4096 x 4096."""
    tile = zlib.compress(bytes(4096 * 4096), 9)
    sizes = {"t322": 4096, "t323": 4096, "t324": 8, "t325": len(tile)}
    tags = directory(t256=100, t257=100, t258=8, t259=8, t262=1, t277=1, **sizes)
    return b"II*\0" + (8 + len(tile)).to_bytes(4, "little") + tile + tags


BAD = {
    "empty": (b"", 422),
    "text": (b"hello", 415),
    "svg": (b"<svg xmlns='http://www.w3.org/2000/svg'/>", 415),
    "postscript": (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", 415),
    "cut off": (encoded("PNG")[:-200], 422),
    "only a header": (encoded("JPEG")[:200], 422),
    "too many pixels": (encoded("PNG", Image.new("1", (1001, 1000))), 413),
    "decompression bomb": (bomb(), 413),
    "two sizes by fill bytes": (two_sizes(b"\xff", 4 + 0xE000), 413),
    "two sizes by a marker without length": (two_sizes(b"\xff\xd0", 4 + 0xFFE0), 413),
    "two sizes by a segment of length 0": (two_sizes(b"\xff\xef\0\0\xff\xd0", 6 + 2 + 0xFFE0), 413),
    "a tile of too many pixels": (tiff_of_one_tile(), 413),
    "too many scans": (scans(), 413),
    "too long and narrow": (encoded("PNG", Image.fromarray(pixels(1, 2000))), 413),
    "too many bytes": (encoded("BMP", Image.fromarray(pixels(700, 700))), 413),
}


@pytest.mark.parametrize("what", BAD)
def test_bad_images_are_refused_with_a_reason(what, client):
    content, status = BAD[what]
    answer = client.post("/v1/predict", content=content)
    assert (answer.status_code, list(answer.json())) == (status, ["error"]), answer.text
    assert answer.json()["error"].endswith((".", ")"))


def test_a_file_of_two_formats_is_read_as_the_one_that_was_checked(client, monkeypatch):
    content = tiff_and_film()
    Image.init()
    monkeypatch.setattr(
        Image, "ID", sorted(Image.ID)
    )  # else it depends on imports which of its readers Pillow asks first
    assert Image.open(io.BytesIO(content)).size == (9000, 9000)
    white = encoded("PNG", Image.new("L", (16, 16), 255))
    found, expected = (client.post("/v1/predict", content=each).json()["predictions"] for each in (content, white))
    assert found[0]["classes"] == expected[0]["classes"]


def test_an_image_that_turns_out_larger_than_it_said_is_not_answered(client, monkeypatch):
    monkeypatch.setattr(images, "decode", lambda *_, **__: torch.zeros(3, 1001, 1000, dtype=torch.uint8))
    answer = client.post("/v1/predict", content=FILES["png"])
    assert (answer.status_code, "1001 x 1000 pixels" in answer.text) == (413, True)


def test_a_body_that_names_no_length_is_measured_as_it_comes(client):
    answer = client.post("/v1/predict", content=(b"x" * 2**16 for _ in range(20)))
    assert answer.status_code == 413
    assert client.post("/v1/predict", content=iter([FILES["png"][:50], FILES["png"][50:]])).status_code == 200


FORM = "multipart/form-data; boundary=b"


@pytest.mark.parametrize(
    ("content", "kind", "status"),
    [
        (b"--b\r\ncontent-disposition: form-data; name=a\r\n\r\nx", FORM, 400),  # cut off
        (b"nothing of a form", FORM, 400),
        (b"--b--\r\n", FORM, 422),
        (b"--b\r\n" + 40 * b"a: b\r\n" + b"\r\nx\r\n--b--\r\n", FORM, 400),
        (b"--b\r\n\r\nx\r\n--b--\r\n", "multipart/form-data", 400),
        (b"--b\r\n\r\nx\r\n--b--\r\n", "multipart/form-data; boundary=" + 300 * "b", 400),
        (5 * b"--b\r\n\r\nx\r\n" + b"--b--\r\n", FORM, 413),
        (b"{}", "application/json", 415),
    ],
)
def test_bad_forms_are_refused(content, kind, status, client):
    answer = client.post("/v1/predict", content=content, headers={"content-type": kind})
    assert answer.status_code == status and "error" in answer.json(), answer.text


@pytest.mark.parametrize("query", ["top=0", "top=-1", "top=x", "top=1001", "top=1e99"])
def test_bad_parameters_are_refused(query, client):
    answer = client.post(f"/v1/predict?{query}", content=FILES["png"])
    assert answer.status_code == 422 and answer.json()["error"].startswith("top: ")


def test_more_classes_than_there_are_gives_all(client):
    found = client.post("/v1/predict?top=100", content=FILES["png"]).json()["predictions"][0]["classes"]
    assert {each["name"] for each in found} == set(NAMES)
    assert sum(each["prob"] for each in found) == pytest.approx(1)


def test_the_room_for_bodies_is_given_back_whatever_happened(client, served):
    client.post("/v1/predict", content=FILES["png"])
    client.post("/v1/predict", content=b"text")
    assert served[1]._bytes == 0 and served[1]._batcher.pending == 0


def test_bodies_that_are_only_announced_take_no_room_from_others(client):
    head = b"POST /v1/predict HTTP/1.1\r\nhost: localhost\r\nexpect: 100-continue\r\ncontent-length: %d\r\n\r\n"
    count = SETTINGS.max_memory_bytes // SETTINGS.max_body_bytes
    with contextlib.ExitStack() as stack:
        for _ in range(count + 1):
            raw = stack.enter_context(socket.create_connection((client.base_url.host, client.base_url.port), 20))
            raw.sendall(head % SETTINGS.max_body_bytes)
            assert b" 100 " in raw.recv(100)  # its body is waited for
        assert client.post("/v1/predict", content=FILES["png"]).status_code == 200


def test_the_first_frame_of_an_animation_does_not_cost_the_memory_of_all(client):
    frames = [Image.fromarray(np.full((900, 900), n % 256, np.uint8)) for n in range(300)]
    content = encoded("GIF", frames[0], save_all=True, append_images=frames[1:])
    assert client.post("/v1/predict", content=content).status_code == 200


def test_a_gif_that_is_cut_off_behind_its_first_frame_is_read_or_refused(client):
    frames = [Image.fromarray(pixels(seed=n)).quantize() for n in range(2)]
    content = encoded("GIF", frames[0], save_all=True, append_images=frames[1:])
    for end in range(20, len(content), 7):
        assert client.post("/v1/predict", content=content[:end]).status_code in (200, 415, 422), end


def test_before_the_model_is_there_bad_input_is_refused_first_and_good_is_asked_to_wait(monkeypatch):
    may_load = threading.Event()

    def load(_):
        assert may_load.wait(20)
        return tiny_model()

    monkeypatch.setattr(engines, "load", load)
    with unready() as (client, _):
        assert client.get("/healthz").json() == {"status": "ok"}
        waiting = client.get("/readyz")
        assert (waiting.status_code, waiting.json(), "retry-after" in waiting.headers) == (
            503,
            {"status": "loading"},
            True,
        )
        for what in ("text", "cut off", "too many pixels", "empty"):
            assert client.post("/v1/predict", content=BAD[what][0]).status_code == BAD[what][1], what
        for answer in (client.post("/v1/predict", content=FILES["png"]), client.get("/v1/model")):
            assert answer.status_code == 503 and int(answer.headers["retry-after"]) > 0
        may_load.set()
        until(lambda: client.get("/readyz").status_code == 200)
        assert client.post("/v1/predict", content=FILES["png"]).status_code == 200


class Patient(torch.nn.Module):
    """A model that answers when it is let."""

    def __init__(self):
        super().__init__()
        self.inner, self.may_answer = tiny_model(), threading.Event()
        self.may_answer.set()
        mx.models.set_info(self, mx.models.info_of(self.inner))

    def forward(self, images):
        assert self.may_answer.wait(30)
        return self.inner(images)


def test_a_full_queue_refuses_at_once_and_all_that_was_accepted_is_answered():
    model = Patient()
    settings = replace(SETTINGS, max_queue=4, max_batch=1)
    with running(settings, model=model) as (client, engine):
        model.may_answer.clear()
        answers: list[int] = []
        threads = [
            threading.Thread(
                target=lambda: answers.append(client.post("/v1/predict", content=FILES["png"]).status_code)
            )
            for _ in range(5)
        ]
        threads[0].start()
        until(lambda: engine._batcher.pending == 0 and engine._bytes > 0)  # one is in the model
        for thread in threads[1:]:
            thread.start()
        until(lambda: engine._batcher.pending == 4)
        for body in (FILES["png"], b"text"):  # read neither: overload must cost little
            refused = client.post("/v1/predict", content=body)
            assert refused.status_code == 429 and 1 <= int(refused.headers["retry-after"]) <= 60
        model.may_answer.set()
        for thread in threads:
            thread.join(30)
        assert answers == 5 * [200]


def test_bodies_of_more_bytes_than_may_be_held_are_asked_to_wait(served):
    client, engine = served
    engine.reserve(SETTINGS.max_memory_bytes - 100)
    try:
        answer = client.post("/v1/predict", content=FILES["png"])
    finally:
        engine.release(SETTINGS.max_memory_bytes - 100)
    assert answer.status_code == 503 and answer.headers["retry-after"] == "1"
    assert client.post("/v1/predict", content=FILES["png"]).status_code == 200


def test_model_route_tells_what_is_served(client):
    found = client.get("/v1/model").json()
    assert found["class_names"] == list(NAMES) and found["num_classes"] == len(NAMES)
    assert found["preprocessing"]["image_size"] == [32, 24] and found["grid"] == [4, 3] and found["patch_size"] == 8
    assert found["num_parameters"] == sum(p.numel() for p in tiny_model().parameters())
    assert "runs" not in json.dumps(found)  # no path of this machine


@pytest.mark.slow
def test_an_exported_file_is_served_with_the_answers_of_the_weights(tmp_path):
    with running(model=exported_model(tmp_path)) as (client, engine):
        assert engine.path == "exported file"
        for kind, content in FILES.items():
            path = tmp_path / "file"
            path.write_bytes(content)
            (expected,) = mx.predict(tiny_model(), [path], top=5)
            (found,) = client.post("/v1/predict", content=content).raise_for_status().json()["predictions"]
            served = {each["name"]: each["prob"] for each in found["classes"]}
            assert served == pytest.approx(dict(expected.classes), abs=1e-5), kind
