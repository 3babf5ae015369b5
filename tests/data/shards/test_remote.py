"""Shards that fsspec reaches: the same images as from a folder, fetched many at a time, and a network that fails."""

import functools
import http.server
import importlib.util
import os
import threading
import time

import fsspec
import numpy as np
import pytest
from shard_files import contents, image, samples, toy, write_tar

from mixonomy.data import open_source
from mixonomy.data.shards import remote as remote_store
from mixonomy.data.shards import store
from mixonomy.data.shards.index import NAME
from mixonomy.data.shards.pack import Options, pack
from mixonomy.data.sources.base import read_ahead

needs_http = pytest.mark.skipif(importlib.util.find_spec("aiohttp") is None, reason="needs aiohttp (the extra remote)")


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr(remote_store, "WAIT_S", 0.01)


@pytest.fixture
def memory(tmp_path):
    """A pack that fsspec holds in memory; its URL."""
    pack(toy(), tmp_path / "out", Options(shard_bytes=20_480))
    files = fsspec.filesystem("memory")
    url = f"memory://{tmp_path.name}"
    files.put(str(tmp_path / "out"), f"/{tmp_path.name}", recursive=True)
    yield url
    files.rm(f"/{tmp_path.name}", recursive=True)


def remote(url):
    return open_source(f"shards:{url}")


def all_contents(source):
    return {name: contents(part) for name, part in source.splits.items()}


def counted(monkeypatch):
    """A list that grows by the ranges of each request."""
    requests, fetch = [], remote_store.RemoteStore._fetch

    def count(self, wanted):
        requests.append(list(wanted))
        return fetch(self, wanted)

    monkeypatch.setattr(remote_store.RemoteStore, "_fetch", count)
    return requests


def test_a_pack_gives_the_same_images_as_from_its_folder(memory, tmp_path):
    ours, local = remote(memory), open_source(f"shards:{tmp_path}/out")
    assert all_contents(ours) == all_contents(local) and ours.digest() == local.digest() and ours.name == "toy"


def test_the_index_is_fetched_once_for_each_content(memory, monkeypatch, cache):
    fetched, fetch = [], remote_store.RemoteStore.fetch
    monkeypatch.setattr(remote_store.RemoteStore, "fetch", lambda *a: fetched.append(a[1]) or fetch(*a))
    assert remote(memory).digest() == remote(memory).digest()
    assert fetched == [NAME] and len(list(cache.rglob("*.safetensors"))) == 1


def test_a_pack_that_takes_the_place_of_another_is_read_by_its_own_index(memory, tmp_path):
    before = all_contents(remote(memory))
    pack(toy(), tmp_path / "other", Options(shard_bytes=40_960))
    files = fsspec.filesystem("memory")
    files.rm(f"/{tmp_path.name}", recursive=True)
    files.put(str(tmp_path / "other"), f"/{tmp_path.name}", recursive=True)
    assert all_contents(remote(memory)) == before


def test_an_index_that_was_kept_and_is_damaged_is_fetched_again(memory, cache):
    expected = all_contents(remote(memory))
    (kept,) = cache.rglob("*.safetensors")
    os.truncate(kept, 1000)
    assert all_contents(remote(memory)) == expected
    os.truncate(kept, 1000)
    files, path = fsspec.filesystem("memory"), f"{memory.removeprefix('memory:/')}/{NAME}"
    files.pipe(path, files.cat_file(path)[:1000])
    for _ in range(2):
        with pytest.raises(ValueError, match=rf"damaged .*; copy {NAME} and _info.json to {memory} again"):
            remote(memory)


def test_an_index_of_other_shards_than_the_description_is_refused_until_it_is_copied_too(memory, tmp_path):
    expected = all_contents(remote(memory))
    pack(toy(), tmp_path / "other", Options(shard_bytes=40_960))
    files, folder = fsspec.filesystem("memory"), memory.removeprefix("memory:/")
    files.put(str(tmp_path / "other/_info.json"), f"{folder}/_info.json")
    with pytest.raises(ValueError, match=rf"{NAME} is not of the shards that _info.json there describes; copy"):
        remote(memory)
    files.rm(folder, recursive=True)
    files.put(str(tmp_path / "other"), folder, recursive=True)
    assert all_contents(remote(memory)) == expected


def test_a_packed_shard_that_is_gone_or_cut_off_is_named_at_once(memory):
    files, path = fsspec.filesystem("memory"), f"{memory.removeprefix('memory:/')}/train-000001.tar"
    whole = files.cat_file(path)
    files.pipe(path, whole[:5000])
    with pytest.raises(ValueError, match="train-000001.tar was cut off: it has 5,000 bytes and its index says"):
        remote(memory)
    files.rm(path)
    with pytest.raises(ValueError, match="shard memory://.*/train-000001.tar is missing, and its index says"):
        remote(memory)


@pytest.mark.parametrize("error", [PermissionError("Forbidden"), FileNotFoundError("no folder")])
def test_a_place_that_must_not_be_listed_is_read_all_the_same(memory, monkeypatch, error):
    def refuse(*arguments, **options):
        raise error

    with monkeypatch.context() as patch:
        patch.setattr(type(fsspec.filesystem("memory")), "ls", refuse)
        assert len(remote(memory)) == 49


def test_shards_of_others_are_read_where_what_is_not_there_is_called_forbidden(tmp_path, monkeypatch):
    def forbidden(self, path, *arguments, **options):
        raise PermissionError("Forbidden")

    files = fsspec.filesystem("memory")
    path = write_tar(tmp_path / "train-0.tar", samples(range(4), cls=lambda number: str(number % 2)))
    files.pipe(f"/{tmp_path.name}/train-0.tar", path.read_bytes())
    monkeypatch.setattr(type(files), "cat_file", forbidden)
    assert len(remote(f"memory://{tmp_path.name}/train-{{0..0}}.tar")) == 4
    files.rm(f"/{tmp_path.name}", recursive=True)


def test_shards_that_are_named_are_asked_for_at_the_same_time(memory, monkeypatch):
    files = fsspec.filesystem("memory")
    all_here, info = threading.Barrier(5), type(files).info

    def together(self, path, **options):
        all_here.wait(60)
        return info(self, path, **options)

    names = [f"train-{number:06d}.tar" for number in range(5)]
    with monkeypatch.context() as patch:
        patch.setattr(type(files), "info", together)
        assert list(remote_store.RemoteStore(memory).find(names)) == names


@pytest.mark.parametrize("cached", ["", "simplecache::"])
def test_shards_of_others_that_change_and_keep_their_size_are_read_again(tmp_path, cached):
    files, folder = fsspec.filesystem("memory"), f"/{tmp_path.name}"
    for labels in ("01", "10"):
        path = write_tar(tmp_path / "a.tar", samples(range(4), cls=lambda number, labels=labels: labels[number % 2]))
        files.pipe(f"{folder}/a.tar", path.read_bytes())
        part = remote(f"{cached}memory:/{folder}").splits["train"]
        assert part.labels[:2].tolist() == [int(label) for label in labels]
        assert contents(part)["a/0001.png"][0] == image(1)
    files.rm(folder, recursive=True)


def test_images_announced_are_fetched_together_and_while_others_are_decoded(memory, monkeypatch):
    requests = counted(monkeypatch)
    part = remote(memory).splits["train"]
    read_ahead(part.images, np.arange(10, 20))
    deadline = time.monotonic() + 20
    while not requests and time.monotonic() < deadline:
        time.sleep(0.01)
    announced = [part.images[index] for index in range(10, 20)]
    assert announced == [part.images[index] for index in range(10, 20)]
    assert [len(ranges) for ranges in requests] == [10] + [1] * 10


def test_neighbours_are_one_request_and_far_ones_several():
    ranges = [store.Range("a", start, 100, 10**9) for start in (0, 150, 2**17, 2**17 + 100, 2**25)]
    groups = list(remote_store._merged([*ranges, store.Range("b", 0, 10, 100)]))
    assert [[one.start for one in group] for group in groups] == [[0, 150], [2**17, 2**17 + 100], [2**25], [0]]
    many = [store.Range("a", start, 2**20, 10**9) for start in range(0, 2**26, 2**20)]
    assert (
        max(group[-1].start + 2**20 - group[0].start for group in remote_store._merged(many)) <= remote_store.MAX_MERGED
    )


def test_what_is_announced_and_never_read_is_forgotten(memory, monkeypatch):
    monkeypatch.setattr(remote_store, "AHEAD", 2)
    images = remote(memory).splits["train"].images
    for first in range(0, 40, 5):
        read_ahead(images, np.arange(first, first + 5))
    assert len(images.store._ahead) == 10


def test_shards_of_others_in_memory_are_scanned_once_and_their_index_kept(tmp_path, cache):
    files = fsspec.filesystem("memory")
    for name in ("train-0", "train-1", "val-0"):
        path = write_tar(tmp_path / f"{name}.tar", samples(range(4), cls=lambda number: str(number % 2)))
        files.pipe(f"/{tmp_path.name}/{name}.tar", path.read_bytes())
    url = f"memory://{tmp_path.name}"
    assert {name: len(part) for name, part in remote(url).splits.items()} == {"train": 8, "val": 4}
    assert all_contents(remote(url))["val"]["val-0/0002.png"] == (image(2), 0)
    assert len(remote(f"{url}/train-{{0..1}}.tar")) == len(remote(f"{url}/train-*.tar")) == 8
    assert len(list(cache.rglob("*.safetensors"))) == 2  # of all, and of the two
    with pytest.raises(ValueError, match=r"there is no shard memory://.*/train-2.tar; put it there"):
        remote(f"{url}/train-{{0..2}}.tar")
    files.rm(f"/{tmp_path.name}", recursive=True)


def test_a_shard_that_is_gone_or_cut_off_meanwhile_is_named(memory):
    part = remote(memory).splits["train"]
    files, path = fsspec.filesystem("memory"), memory.removeprefix("memory:/")
    whole = files.cat_file(f"{path}/train-000000.tar")
    files.pipe(f"{path}/train-000000.tar", whole[:5000])
    with pytest.raises(OSError, match="shard train-000000.tar ends before it; the shard was cut off"):
        for index in range(40):
            part.images[index]
    files.rm(f"{path}/train-000000.tar")
    with pytest.raises(OSError, match="there is no shard train-000000.tar any more"):
        part.images[0]


def test_whole_shards_are_kept_on_disk_if_so_asked_and_a_half_copy_is_made_again(memory, monkeypatch, cache):
    requests = counted(monkeypatch)
    source = remote(f"simplecache::{memory}")
    expected = all_contents(remote(memory))
    requests.clear()
    assert all_contents(source) == expected
    assert not requests
    copies = {path.name: path for path in (cache / "copies").iterdir() if not path.name.startswith(".")}
    assert sorted(path.stat().st_size for path in copies.values()) == sorted(
        source.splits["train"].images.index.columns["shard_bytes"].tolist()
    )
    half = next(iter(copies.values()))
    os.truncate(half, 1000)  # as a process leaves it that is killed
    files, path = fsspec.filesystem("memory"), memory.removeprefix("memory:/")
    again = remote(f"simplecache::{memory}")
    assert all_contents(again) == expected and not requests
    files.rm(f"{path}/val-000000.tar")
    assert len(contents(remote(f"simplecache::{memory}").splits["val"])) == 9  # from the copy


@pytest.mark.parametrize("kind", ["filecache", "blockcache"])
def test_caches_that_processes_must_not_share_are_refused(kind):
    with pytest.raises(ValueError, match=rf"uses {kind}::, which several processes must not share .*; use simple"):
        remote(f"{kind}::memory://x")


def test_what_cannot_be_opened_is_one_sentence(tmp_path):
    with pytest.raises(ValueError, match="nosuch://bucket/x cannot be opened"):
        remote("nosuch://bucket/x")
    if importlib.util.find_spec("s3fs") is None:
        with pytest.raises(ValueError, match=r"reading s3:// needs s3fs, which is not installed; pip install"):
            remote("s3://bucket/x")
    with pytest.raises(ValueError, match=r"memory://nowhere has no .tar files"):
        remote("memory://nowhere")
    with pytest.raises(ValueError, match="names shards in different places"):
        remote("memory://{a,b}/x.tar")


class Server(http.server.SimpleHTTPRequestHandler):
    """A web server that gives parts of files, and does wrong what it is told to."""

    protocol_version = "HTTP/1.1"
    requests: list[str] = []
    end: threading.Event
    failures = 0
    silent_for = 0
    gives_parts = True

    def do_HEAD(self):
        if self.path.endswith(".tar") and type(self).silent_for:
            type(self).silent_for -= 1
            type(self).end.wait(30)
            return
        super().do_HEAD()

    def do_GET(self):
        path = self.translate_path(self.path)
        wanted = self.headers.get("Range") if type(self).gives_parts else None
        type(self).requests.append(f"{os.path.basename(path)} {wanted}")
        if wanted and type(self).failures:
            type(self).failures -= 1
            self.send_error(503)
            return
        if ".tar" in path and type(self).silent_for:
            type(self).silent_for -= 1
            type(self).end.wait(30)
            return
        if not os.path.isfile(path):
            super().do_GET()
            return
        with open(path, "rb") as file:
            content = file.read()
        status = 200
        if wanted:
            first, last = wanted.removeprefix("bytes=").split("-")
            content, status = content[int(first) : int(last) + 1 if last else None], 206
        self.send_response(status)
        self.send_header("Accept-Ranges", "bytes" if type(self).gives_parts else "none")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *args):
        pass


@pytest.fixture
def server(tmp_path):
    """(URL of a pack, the class that answers)."""
    pack(toy(), tmp_path / "out", Options(shard_bytes=20_480))
    handler = type("Handler", (Server,), {"requests": [], "end": threading.Event()})
    running = http.server.ThreadingHTTPServer(
        ("127.0.0.1", 0), functools.partial(handler, directory=str(tmp_path / "out"))
    )
    threading.Thread(target=running.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{running.server_port}", handler
    handler.end.set()
    running.shutdown()
    running.server_close()


@needs_http
def test_http_gives_the_same_images_by_parts_of_files(server, tmp_path):
    url, handler = server
    assert all_contents(remote(url)) == all_contents(open_source(f"shards:{tmp_path}/out"))
    assert not [line for line in handler.requests if ".tar" in line and line.endswith("None")]


@needs_http
def test_http_errors_that_pass_are_tried_again_and_others_told(server):
    url, handler = server
    part = remote(url).splits["train"]
    handler.failures = remote_store.TRIES - 1
    assert part.images[3]
    handler.failures = remote_store.TRIES
    with pytest.raises(OSError, match="shard train-00000.* could not be read: 503"):
        part.images[4]
    handler.gives_parts = False
    with pytest.raises(OSError, match="the server of train-00000.* does not give parts of files"):
        part.images[5]


@needs_http
@pytest.mark.slow
@pytest.mark.parametrize("cached", ["", "simplecache::"])
def test_a_server_that_falls_silent_is_asked_again_and_then_told(server, cached, tmp_path, monkeypatch):
    url, handler = server
    monkeypatch.setattr(remote_store, "SILENT_S", 1.0)
    monkeypatch.setattr(remote_store, "TRIES", 10)  # so that a busy machine may be late many times
    part = remote(f"{cached}{url}").splits["train"]
    last = "train-000006.tar"
    handler.silent_for = 1
    assert part.images[0]
    handler.silent_for = 100
    monkeypatch.setattr(remote_store, "TRIES", 2)
    with pytest.raises(OSError, match=f"shard {last}.* could not be re(ad|ached): .*[Tt]imeout"):
        part.images[39]
    with pytest.raises(ValueError, match=r"could not be reached: .*[Tt]imeout"):  # and not that there is no shard
        remote(f"{cached}{url}/{last}")
    handler.silent_for = 0
    monkeypatch.setattr(remote_store, "TRIES", 10)
    (tmp_path / "out" / last).unlink()
    with pytest.raises(FileNotFoundError, match=last):
        part.images[39]


@needs_http
def test_http_shards_of_others_by_braces(server, tmp_path):
    url, _ = server
    for number in range(2):
        write_tar(tmp_path / f"out/x/{number}.tar", samples(range(4), cls=lambda number: str(number % 2)))
    assert len(remote(f"{url}/x/{{0..1}}.tar")) == 8
    with pytest.raises(ValueError, match="there is no shard"):
        remote(f"{url}/x/{{0..2}}.tar")


@needs_http
def test_a_server_that_is_not_there_is_one_sentence():
    with pytest.raises(ValueError, match=r"cannot be read \(http://127.0.0.1:9 could not be reached: "):
        remote("http://127.0.0.1:9")


@needs_http
@pytest.mark.slow
def test_worker_processes_read_over_http_in_the_order_of_none(server):
    from test_read import BadImages, first_batches

    url, handler = server
    part = remote(url).splits["train"]
    by_none = first_batches(part, 6, BadImages())
    handler.requests.clear()
    by_one = first_batches(part, 6, BadImages(), workers=1)
    assert all(np.array_equal(a.images, b.images) for a, b in zip(by_none, by_one, strict=True)) and handler.requests
