"""Data sets of the Hugging Face hub, from a server on this machine that answers as the hub does."""

import hashlib
import http.server
import io
import json
import os
import subprocess
import sys
import threading

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from mixonomy.data.sources import hub

COMMIT = "0" * 40


def parquet(count: int, first: int = 0) -> bytes:
    """A shard as the hub's own library writes it: an image struct, an integer label, class names in the metadata."""
    images = []
    for i in range(first, first + count):
        file = io.BytesIO()
        Image.new("RGB", (4, 4), (i, 0, 0)).save(file, "PNG")
        images.append({"bytes": file.getvalue(), "path": f"{i}.png"})
    features = {"img": {"_type": "Image"}, "kind": {"_type": "ClassLabel", "names": ["ant", "bee"]}}
    table = pa.table({"img": images, "kind": [i % 2 for i in range(first, first + count)]})
    table = table.replace_schema_metadata({"huggingface": json.dumps({"info": {"features": features}})})
    file = io.BytesIO()
    pq.write_table(table, file)
    return file.getvalue()


@pytest.fixture
def server():
    """A hub with the data set toy/insects; yields its address."""
    files = {
        "README.md": b"# insects",
        "data/train-00000-of-00002.parquet": parquet(3),
        "data/train-00001-of-00002.parquet": parquet(2, first=3),
        "data/test-00000-of-00001.parquet": parquet(2, first=5),
    }

    class Hub(http.server.BaseHTTPRequestHandler):
        def do_HEAD(self):
            self.answer(with_body=False)

        def do_GET(self):
            self.answer(with_body=True)

        def answer(self, with_body):
            path = self.path.split("?")[0]
            headers, body, status = {}, b"", 200
            if path.startswith("/api/datasets/toy/insects"):
                body = json.dumps(
                    {"id": "toy/insects", "sha": COMMIT, "siblings": [{"rfilename": name} for name in files]}
                ).encode()
                if "/tree/" in path:
                    body = json.dumps(
                        [
                            {"type": "file", "path": name, "size": len(data), "oid": hashlib.sha1(data).hexdigest()}
                            for name, data in files.items()
                        ]
                    ).encode()
                headers["Content-Type"] = "application/json"
            elif path.startswith("/datasets/toy/insects/resolve/"):
                body = files[path.split("/", 6)[6]]
                headers |= {"X-Repo-Commit": COMMIT, "ETag": f'"{hashlib.sha256(body).hexdigest()}"'}
            else:
                status, headers = 404, {"X-Error-Code": "RepoNotFound"}
            self.send_response(status)
            for name, value in {**headers, "Content-Length": str(len(body))}.items():
                self.send_header(name, value)
            self.end_headers()
            if with_body:
                self.wfile.write(body)

        def log_message(self, *_):  # pyright: ignore[reportIncompatibleMethodOverride]
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Hub) as listening:
        threading.Thread(target=listening.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{listening.server_address[1]}"
        listening.shutdown()


def opened(text: str, address: str, cache) -> subprocess.CompletedProcess:
    """Opens it in a process of its own, since the hub's library reads its address when it is imported."""
    code = """
import sys
from mixonomy.data import open_source
try:
    source = open_source(sys.argv[1])
    train = source.splits["train"]
    sizes = {name: len(split) for name, split in source.splits.items()}
    print(source.class_names, sizes, train.labels.tolist(), len(train[4][0]) > 0)
except ValueError as error:
    print(error)
"""
    environment = {**os.environ, "HF_ENDPOINT": address, "HF_HOME": str(cache), "HF_HUB_DISABLE_XET": "1"}
    return subprocess.run(
        [sys.executable, "-c", code, text], env=environment, capture_output=True, text=True, timeout=60
    )


@pytest.mark.slow
def test_parquet_files_of_the_hub_become_splits(server, tmp_path):
    done = opened("hf:toy/insects", server, tmp_path)
    expected = "('ant', 'bee') {'train': 5, 'test': 2} [0, 1, 0, 1, 0] True"
    assert done.stdout.strip() == expected, done.stdout + done.stderr[-2000:]


@pytest.mark.slow
def test_unknown_name_and_a_hub_out_of_reach_get_one_sentence(server, tmp_path):
    done = opened("hf:toy/nothing", server, tmp_path)
    assert done.stdout.startswith("the hub has no data set 'toy/nothing'"), done.stdout + done.stderr[-2000:]
    done = opened("hf:toy/insects", "http://127.0.0.1:9", tmp_path / "other")
    assert done.stdout.startswith("the hub could not be asked for 'toy/insects'"), done.stdout + done.stderr[-2000:]
    assert len(done.stdout.strip().splitlines()) == 1


@pytest.mark.parametrize("text", ["hf:", "hf:name", "hf:a/b/c/d", "hf:/b"])
def test_text_that_names_no_data_set_is_refused(text):
    with pytest.raises(ValueError, match="write hf:OWNER/NAME or hf:OWNER/NAME/CONFIG"):
        hub.open_hub(text)


@pytest.mark.parametrize(
    ("files", "config", "expected"),
    [
        (["data/train-00000-of-00001.parquet", "data/test.parquet"], None, ["train", "test"]),
        (["plain/train/0000.parquet", "plain/validation/0000.parquet"], None, ["train", "val"]),
        (["a/train/0.parquet", "b/train/0.parquet"], "b", ["train"]),
        (["train.parquet"], None, ["train"]),
    ],
)
def test_splits_are_read_off_the_paths(files, config, expected):
    assert list(hub._splits("hf:a/b", files, config)) == expected


def test_several_configurations_must_be_chosen_from():
    with pytest.raises(ValueError, match="these configurations: a, b; name one as hf:x/y/CONFIG"):
        hub._splits("hf:x/y", ["a/train/0.parquet", "b/train/0.parquet"], None)
