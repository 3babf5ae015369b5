"""Weights from and to the Hugging Face hub, by a server on this machine that answers as the hub does.

The hub's library reads its address when it is imported, so that all happens in a process beside the tests.
"""

import base64
import hashlib
import http.server
import json
import os
import re
import subprocess
import sys
import threading
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

import mixonomy as mx

COMMIT = "0" * 40
SIZES = {"patch_size": 4, "hidden_dim": 8, "num_blocks": 2, "tokens_mlp_dim": 5, "channels_mlp_dim": 12}
WORKER = """
import json, sys
import mixonomy as mx
from mixonomy.models import info_of
for line in sys.stdin:
    what, *given = json.loads(line)
    try:
        if what == "load":
            model = mx.load(*given)
            info = info_of(model)
            said = f"{type(model).__name__} {info.arguments['num_classes']} {info.preprocessing.mean[0]}"
        else:
            said = mx.push_to_hub(mx.load(given[0]), given[1], private=True, licence="apache-2.0")
    except ValueError as error:
        said = str(error)
    print(json.dumps(said), flush=True)
"""


@dataclass
class StandIn:
    """What the hub of a test holds and was told."""

    files: dict[str, dict[str, bytes]] = field(default_factory=dict)
    created: list[dict] = field(default_factory=list)
    is_open: bool = True
    address: str = ""


@pytest.fixture(scope="module")
def standing():
    """A hub that stands while this file is tested."""
    state = StandIn()

    class Hub(http.server.BaseHTTPRequestHandler):
        def do_HEAD(self):
            self.serve(with_body=False)

        def do_GET(self):
            self.serve(with_body=True)

        def serve(self, *, with_body):
            found = re.match(r"/([\w-]+/[\w.-]+)/resolve/\w+/(.+)", self.path.split("?")[0])
            files = state.files.get(found[1]) if found else None
            if files is None or not found:
                self.reply(404, b"", {"X-Error-Code": "RepoNotFound"})
            elif found[2] not in files:
                self.reply(404, b"", {"X-Error-Code": "EntryNotFound", "X-Repo-Commit": COMMIT})
            else:
                body = files[found[2]]
                commit = hashlib.sha256(b"".join(files[name] for name in sorted(files))).hexdigest()[:40]
                tag = f'"{hashlib.sha256(body).hexdigest()}"'
                self.reply(200, body, {"X-Repo-Commit": commit, "ETag": tag}, with_body=with_body)

        def do_POST(self):
            body = self.rfile.read(int(self.headers["Content-Length"]))
            if not state.is_open:
                self.reply(403, b"{}", {})
            elif self.path == "/api/repos/create":
                state.created.append(json.loads(body))
                self.reply(200, json.dumps({"url": f"{state.address}/me/digits", "id": "me/digits"}).encode(), {})
            elif "/preupload/" in self.path:
                files = [{**f, "uploadMode": "regular", "shouldIgnore": False} for f in json.loads(body)["files"]]
                self.reply(200, json.dumps({"files": files}).encode(), {})
            elif "/commit/" in self.path:
                repo = self.path.split("/")[3:5]
                held = state.files.setdefault("/".join(repo), {})
                for line in map(json.loads, body.splitlines()):
                    if line["key"] == "file":
                        held[line["value"]["path"]] = base64.b64decode(line["value"]["content"])
                answer = {"commitUrl": f"{state.address}/me/digits/commit/{COMMIT}", "commitOid": COMMIT}
                self.reply(200, json.dumps(answer).encode(), {})
            else:
                self.reply(200, b"{}", {})

        def reply(self, status, body, headers, *, with_body=True):
            self.send_response(status)
            kind = {} if headers else {"Content-Type": "application/json"}
            for name, value in {**headers, **kind, "Content-Length": str(len(body))}.items():
                self.send_header(name, value)
            self.end_headers()
            if with_body:
                self.wfile.write(body)

        def log_message(self, *_):  # pyright: ignore[reportIncompatibleMethodOverride]
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Hub) as listening:
        threading.Thread(target=listening.serve_forever, daemon=True).start()
        state.address = f"http://127.0.0.1:{listening.server_address[1]}"
        yield state
        listening.shutdown()


@pytest.fixture
def hub(standing):
    """The hub without models, open to all."""
    standing.files, standing.created, standing.is_open = {}, [], True
    return standing


class Worker:
    """A process that asks the hub of an address."""

    def __init__(self, address: str, cache: Path):
        environment = {**os.environ, "HF_ENDPOINT": address, "HF_HOME": str(cache), "HF_TOKEN": "hf_test"}
        self.process = subprocess.Popen(
            [sys.executable, "-c", WORKER],
            env={**environment, "HF_HUB_DISABLE_XET": "1", "HF_HUB_DISABLE_PROGRESS_BARS": "1"},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def __call__(self, *what: str) -> str:
        assert self.process.stdin and self.process.stdout
        self.process.stdin.write(json.dumps(what) + "\n")
        self.process.stdin.flush()
        return json.loads(self.process.stdout.readline())

    def close(self) -> None:
        assert self.process.stdin and self.process.stdout
        self.process.stdin.close()
        self.process.stdout.close()
        self.process.wait(timeout=60)


@pytest.fixture(scope="module")
def cache(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="module")
def ask(standing, cache):
    worker = Worker(standing.address, cache)
    yield worker
    worker.close()


@pytest.fixture(scope="module")
def ask_offline(cache):
    """One whose hub is out of reach, with the same cache."""
    worker = Worker("http://127.0.0.1:9", cache)
    yield worker
    worker.close()


def folder_files(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def tiny() -> torch.nn.Module:
    torch.manual_seed(0)
    return mx.create("mixer", num_classes=3, image_size=8, **SIZES)


@pytest.fixture
def timm_mixer(tmp_path) -> dict[str, bytes]:
    """A repository as timm makes them: a Mixer in timm's names, and a config.json."""
    folder = tmp_path / "timm_mixer"
    folder.mkdir()
    names = {"token_mixer": "mlp_tokens", "channel_mixer": "mlp_channels"}
    tensors = {}
    for key, tensor in tiny().state_dict().items():
        for ours, theirs in names.items():
            key = key.replace(ours, theirs)
        tensors[key] = tensor.contiguous()
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    config = {"architecture": "mixer_b16_224", "num_classes": 3}
    config["pretrained_cfg"] = {"input_size": [3, 8, 8], "mean": [0.0, 0.0, 0.0], "std": [1.0, 1.0, 1.0], "crop_pct": 1}
    (folder / "config.json").write_text(json.dumps(config))
    return folder_files(folder)


@pytest.mark.slow
def test_models_of_the_hub_load_and_from_the_cache_without_a_network(hub, ask, ask_offline, timm_mixer, tmp_path):
    mx.save_pretrained(tiny(), tmp_path / "ours")
    hub.files = {"me/ours": folder_files(tmp_path / "ours"), "timm/mixer_b16_224.miil_in21k": timm_mixer}
    for name, expected in (("hf:me/ours", "Mixer 3 0.5"), ("timm:mixer_b16_224.miil_in21k", "Mixer 3 0.0")):
        assert ask("load", name) == ask_offline("load", name) == expected


@pytest.mark.slow
def test_what_cannot_be_had_is_one_sentence(hub, ask, ask_offline):
    hub.files = {"me/pickled": {"config.json": b"{}", "pytorch_model.bin": b"\x80\x04"}}
    assert ask("load", "hf:me/pickled") == (
        "hf:me/pickled has no model.safetensors on the hub; pickled weights (.bin, .pt) are never read."
    )
    assert ask("load", "hf:me/nothing") == "the hub has no model 'me/nothing', or it needs a token; look at its page."
    assert ask("load", "timm:mixer_s32_224") == (
        "timm has no weights of mixer_s32_224 on the hub; mixonomy.create('timm:mixer_s32_224') makes a fresh model."
    )
    said = ask_offline("load", "hf:me/other")
    assert said.startswith("config.json of 'me/other' is not in the cache and could not be downloaded (")
    assert "\n" not in said


@pytest.mark.slow
def test_file_that_changes_is_refused_and_the_sentence_says_how_to_accept_it(hub, ask, tmp_path):
    mx.save_pretrained(tiny(), tmp_path / "ours")
    hub.files = {"me/changing": folder_files(tmp_path / "ours")}
    assert ask("load", "hf:me/changing") == "Mixer 3 0.5"
    torch.manual_seed(1)
    mx.save_pretrained(mx.create("mixer", num_classes=3, image_size=8, **SIZES), tmp_path / "other")
    hub.files["me/changing"]["model.safetensors"] = (tmp_path / "other/model.safetensors").read_bytes()
    said = ask("load", "hf:me/changing")
    found = re.fullmatch(
        r"model\.safetensors of 'me/changing' is not the file of [\d-]+ \(sha256 \w{12}\.\.\. then, \w{12}\.\.\. "
        r"now\); if the change is expected, remove (\S+) and load again\.",
        said,
    )
    assert found, said
    Path(found[1]).unlink()
    assert ask("load", "hf:me/changing") == "Mixer 3 0.5"


@pytest.mark.slow
def test_pushed_model_is_what_was_pushed(hub, ask, tmp_path):
    mx.save(tiny(), tmp_path / "model.safetensors")
    said = ask("push", str(tmp_path / "model.safetensors"), "me/digits")
    assert said == f"{hub.address}/me/digits/commit/{COMMIT}"
    assert hub.created[0]["name"] == "digits" and "private" in str(hub.created[0])
    files = hub.files["me/digits"]
    assert set(files) == {"README.md", "config.json", "model.safetensors"}
    card = files["README.md"].decode()
    assert "license: apache-2.0" in card and 'mx.load("hf:me/digits")' in card
    assert ask("load", "hf:me/digits") == "Mixer 3 0.5"


@pytest.mark.slow
def test_hub_that_does_not_let_us_or_is_out_of_reach_is_one_sentence(hub, ask, ask_offline, tmp_path):
    mx.save(tiny(), tmp_path / "model.safetensors")
    given, hub.is_open = ("push", str(tmp_path / "model.safetensors"), "me/digits"), False
    assert ask(*given) == (
        "the hub does not let you write to 'me/digits'; run `hf auth login` with a token that may write."
    )
    said = ask_offline(*given)
    assert said.startswith("'me/digits' could not be uploaded (") and "\n" not in said


NO_NAMES = ["hf:", "hf:x", "hf:a/b/c", "hf:../../etc", "hf:a/..", "hf:/etc/passwd", "hf:a/b\0", "hf:a b/c", "hf:a/b--c",
            "hf:a/" + "b" * 200, "hf:-a/b", "hf:a/b?x=1", "hf:a/b@main", "hf:é/b", "hf:a\\b/c"]  # fmt: skip


@pytest.mark.parametrize("text", NO_NAMES)
def test_text_that_names_no_model_is_refused_before_anything_is_asked(text):
    with pytest.raises(ValueError, match=r"names no model of the hub; write hf:OWNER/NAME\.$") as error:
        mx.load(text)
    assert len(str(error.value)) < 300
    with pytest.raises(ValueError, match="names no model of the hub"):
        mx.push_to_hub(tiny(), text)
