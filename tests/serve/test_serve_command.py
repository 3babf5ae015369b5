"""`mixonomy serve` as a process: it starts at once, connects to nobody, stops without losing a request."""

import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from contextlib import contextmanager
from dataclasses import fields
from pathlib import Path

import httpx
import pytest
from serving import encoded, tiny_model

import mixonomy as mx
from mixonomy import cli
from mixonomy.cli.arguments import parse
from mixonomy.cli.serve import Serve

ROOT = Path(__file__).resolve().parents[2]

# The command, with every connection that the process itself opens noted in a file.
NOTING = """
import sys
def note(event, given):
    if event in ("socket.connect", "socket.getaddrinfo", "socket.sendto"):
        with open(sys.argv[1], "a") as file:
            file.write(f"{event} {given[1:] if event != 'socket.getaddrinfo' else given}\\n")
sys.addaudithook(note)
from mixonomy.cli import main
sys.exit(main(sys.argv[2:]))
"""


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    path = tmp_path_factory.mktemp("model") / "tiny.safetensors"
    mx.save(tiny_model(), path)
    return path


@contextmanager
def started(saved, folder, *options):
    command = [sys.executable, "-c", NOTING, str(folder / "connections"), "serve", str(saved), "--port", "0", "--json"]
    environment = {**os.environ, "HOME": str(folder)}
    with (folder / "log").open("w") as log:
        process = subprocess.Popen([*command, *options], stdout=subprocess.PIPE, stderr=log, text=True, env=environment)
        try:
            yield process
        finally:
            process.kill()
            process.communicate()


@pytest.mark.slow
def test_sigterm_under_load_loses_no_request_and_nothing_connects_out(saved, tmp_path):
    with started(saved, tmp_path, "--max-batch", "2") as process:
        url = json.loads(process.stdout.readline())["url"]
        answered, refused, wrong = [], [], []

        def ask():
            with httpx.Client(base_url=url, timeout=30, trust_env=False) as client:
                while True:
                    try:
                        status = client.post("/v1/predict", content=encoded()).status_code
                    except httpx.ConnectError:
                        refused.append(True)
                        return
                    except httpx.HTTPError as error:
                        wrong.append(error)
                        return
                    answered.append(status)

        threads = [threading.Thread(target=ask) for _ in range(6)]
        for thread in threads:
            thread.start()
        time.sleep(1.0)
        process.send_signal(signal.SIGTERM)
        for thread in threads:
            thread.join(60)
        last = json.loads(process.stdout.read().splitlines()[-1])
        assert process.wait(60) == 0
    assert wrong == [] and len(refused) == 6 and set(answered) == {200}
    assert last == {"images": len(answered)}
    assert not (tmp_path / "connections").exists(), (tmp_path / "connections").read_text()
    lines = [json.loads(line) for line in (tmp_path / "log").read_text().splitlines() if line.startswith("{")]
    assert [line["event"] for line in lines if line["event"] != "request"] == ["ready", "stopping", "stopped"]


@pytest.mark.slow
def test_a_model_that_is_not_there_ends_the_server_with_one_sentence(tmp_path):
    with started(tmp_path / "nothing", tmp_path) as process:
        assert process.wait(60) == 1
    said = [line for line in (tmp_path / "log").read_text().splitlines() if not line.startswith("{")]
    assert len(said) == 1 and said[0].startswith("mixonomy serve: no file or run folder")


def test_a_port_that_is_taken_is_one_sentence(saved, capsys):
    import socket

    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        assert cli.main(["serve", str(saved), "--port", str(port)]) == 1
    said = capsys.readouterr().err
    assert f"cannot listen on 127.0.0.1 port {port}" in said and "--port" in said and said.count("\n") == 1


def test_without_the_extra_the_command_says_what_to_install(saved, capsys, monkeypatch):
    import importlib.util

    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *_: None)
    assert cli.main(["serve", str(saved)]) == 1
    assert capsys.readouterr().err.endswith("run: pip install 'mixonomy[serve]'\n")


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--max-queue", "0"], "max_queue is 0"),
        (["--max-images", "1000"], "never be accepted"),
        (["--api-key-file", "/nothing"], "No such file"),
        (["--host", "256.1.1.1"], "cannot listen on 256.1.1.1"),
    ],
)
def test_options_that_cannot_work_are_refused_before_anything_is_loaded(options, words, saved, capsys):
    assert cli.main(["serve", str(saved), *options]) == 1
    assert words in capsys.readouterr().err


def test_the_table_of_options_in_the_guide_has_their_defaults():
    text = (ROOT / "docs/serve.md").read_text()
    rows = re.findall(r"^\| (`--.*?) \| (.*?) \|", text, re.MULTILINE)
    found = {}
    for names, values in rows:
        names = [name.strip("`- ").replace("-", "_") for name in names.split(", ")]
        found |= dict(zip(names, values.split(", "), strict=True))
    defaults = {field.name: field.default for field in fields(Serve)}
    assert len(found) == 12
    for name, value in found.items():
        assert defaults[name] is None if not value.isdigit() else defaults[name] == float(value), name


def test_the_container_starts_the_command_with_options_that_it_has():
    lines = (ROOT / "Dockerfile").read_text().splitlines()
    entry, command = (json.loads(next(line for line in lines if line.startswith(word)).split(" ", 1)[1])
                      for word in ("ENTRYPOINT", "CMD"))  # fmt: skip
    assert entry == ["mixonomy", "serve"]
    assert parse(Serve, command, name="serve") == Serve("/model", host="0.0.0.0", allow_host=("localhost",))
    assert any(line.startswith("USER ") for line in lines)
    for copied in re.findall(r"^COPY (?!--)(.*) \S+$", "\n".join(lines), re.MULTILINE):
        for name in copied.split():
            assert (ROOT / name).exists() and f"!{name}" in (ROOT / ".dockerignore").read_text().splitlines()
