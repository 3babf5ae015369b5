"""Every command of README.md and docs/ works: it is run, or, where it takes hours, machines or the network, parsed."""

import argparse
import re
import runpy
import shutil
import subprocess
import sys
import threading
import tomllib
from pathlib import Path

import httpx
import pytest
from doc_pages import PAGES, ROOT, Command, blocks, commands, prepare

import mixonomy as mx
from mixonomy import cli

ALL = [command for page in PAGES for command in commands(page)]
TUTORIAL = ROOT / "docs" / "tutorial.md"
# A command that begins like this is parsed by its own parser and goes on to where its work would begin; the reason why
# no further. `mixonomy train` also chooses and checks its recipe and model there.
PARSED = {
    r"train .*--recipe (imagenet|jft)": "a large model on a large data set",
    r"train .*timm:": "downloads weights",
    r"train .*s3://": "needs a bucket",
    r"transfer ": "fine-tunes to many data sets",
    r"eval .*--data imagenet1k": "needs ImageNet",
    r"study (compare|permutation|ablate|scale) (?!.*--rows)": "trains several models for minutes or hours",
    r"study weights --quick": "trains three models for a minute",
    r"bench ": "takes minutes",
    r"export .*--int8": "tests/export/test_int8.py runs it",
}
# Where the work of a parsed command would begin.
WORK = {
    "train": ("mixonomy.api.train",),
    "transfer": ("mixonomy.transferring.transfer",),
    "eval": ("mixonomy.api.evaluate",),
    "study compare": ("mixonomy.studies.compare.compare",),
    "study permutation": ("mixonomy.studies.study.run",),
    "study ablate": ("mixonomy.studies.study.run",),
    "study scale": ("mixonomy.studies.study.run",),
    "study weights": ("mixonomy.training.train",),
    "export": ("mixonomy.export.export_model",),
    "bench train": ("mixonomy.bench.train.compare",),
    "bench infer": ("mixonomy.bench.infer.compare",),
}
# Programs of others: what they are given is looked at where that is possible, see `check_other`.
NOT_RUN = {
    "docker build -t mixonomy .": "tests/serve/test_serve_command.py compares the Dockerfile with the command line",
    'docker run --rm -p 127.0.0.1:8000:8000 -v "$PWD/runs/demo:/model:ro" mixonomy': "as above",
    "(umask 077 && openssl rand -hex 32 > keys)": "a program of others; the keys are prepared",
    "python3 -m venv .venv": "makes an environment",
    "pip install torch torchvision torchcodec --index-url https://download.pytorch.org/whl/cpu": "downloads",
    "cp runs/permutation/rows.jsonl results/permutation.jsonl": "of a study that takes hours",
}
# Options that leave little to do.
SHORT = {
    "train": ("--duration", "2 steps", "--batch-size", "8", "--workers", "0"),
    "fewshot": ("--cache", "none"),
    "study taxonomy": ("--image-size", "32"),
}
TINY = (
    *("--model.hidden-dim", "16", "--model.num-blocks", "2", "--model.tokens-mlp-dim", "8"),
    *("--model.channels-mlp-dim", "16"),
)
WARMUP = ("--optim.warmup", "10 %")  # the recipes for fine-tuning have a long one
REPLACED = {"train": "--epochs", "study taxonomy": "--image-size"}


class Reached(BaseException):
    """Stands for the work that a parsed command would do."""

    def __init__(self, *given: object):
        super().__init__()
        self.given = given


@pytest.fixture(scope="module")
def prepared(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("docs")
    prepare(folder)
    return folder


@pytest.fixture
def work(prepared, tmp_path, monkeypatch) -> Path:
    """A copy of the prepared folder, to work in."""
    folder = tmp_path / "work"
    shutil.copytree(prepared, folder)
    monkeypatch.chdir(folder)
    monkeypatch.setenv("MIXONOMY_DATA", str(folder / "known"))
    monkeypatch.setenv("HOME", str(tmp_path))
    return folder


def unique() -> list:
    """The commands of all pages but the tutorial, each once."""
    found = {tuple(c.words): c for c in reversed(ALL) if not c.place.startswith("docs/tutorial.md") and c.text}
    return [pytest.param(c, id=f"{c.place} {c.text[:60]}") for c in reversed(found.values())]


@pytest.mark.slow
@pytest.mark.parametrize("command", unique())
def test_command_works(command, work, monkeypatch):
    run(command, monkeypatch)


@pytest.mark.slow
def test_the_tutorial_works_from_its_first_line_to_its_last(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    steps = [(line, lambda code=code: exec(code, {})) for line, code in blocks(TUTORIAL, "python")]
    asked = [command for command in commands(TUTORIAL) if command.words[0] == "curl"]
    for command in commands(TUTORIAL):
        if command not in asked:
            line = int(command.place.rpartition(":")[2])
            steps.append((line, lambda command=command: run(command, monkeypatch, asked)))
    for _, step in sorted(steps, key=lambda each: each[0]):
        step()
    assert sum(1 for _ in Path("photos").rglob("*.png")) == 1797
    for made in ("check.html", "answers.csv", "runs/photos/report.html", "runs/photos-weights/weights.html"):
        assert Path(made).stat().st_size > 0, made
    ours, exported = (Path(name).read_text().splitlines() for name in ("answers.csv", "exported.csv"))
    same = sum(a.split(",")[:2] == b.split(",")[:2] for a, b in zip(ours, exported, strict=True))
    assert same >= 0.99 * len(ours)  # the run may be predicted in bfloat16


def run(command: Command, monkeypatch: pytest.MonkeyPatch, asked: list[Command] | None = None) -> None:
    """Runs a command, or parses it where a table above says so.

    Args:
      asked: calls of curl for a server that it starts.
    """
    program, *words = command.words
    if program == "mixonomy":
        reason = next((why for start, why in PARSED.items() if re.match(start, " ".join([*words, ""]))), None)
        if reason is not None:
            parse_only(words, monkeypatch)
        elif words[0] == "serve":
            serve(words, monkeypatch, asked or [])
        else:
            assert cli.main(shortened(words)) == 0, command
    elif program == "curl":
        serve(["serve", "runs/demo"], monkeypatch, [command])
    elif program == "torchrun":
        from torch.distributed.run import get_args_parser

        options = get_args_parser().parse_args(words)
        assert options.module and options.training_script == "mixonomy"
        parse_only(options.training_script_args, monkeypatch)
    else:
        check_other(command, monkeypatch)


def name_of(words: list[str]) -> str:
    """The command, with its sub-command where it has one."""
    return " ".join(words[:2]) if words[0] in ("study", "bench", "data") else words[0]


def shortened(words: list[str]) -> list[str]:
    """The same with little to do."""
    name = name_of(words)
    if (replaced := REPLACED.get(name)) in words:
        at = words.index(replaced)
        words = words[:at] + words[at + 2 :]
    sizes = () if name != "train" else WARMUP if "--init" in words else TINY
    return [*words, *SHORT.get(name, ()), *sizes]


def parse_only(words: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Runs a command up to where its work would begin."""
    name = name_of(words)

    def reach(*given: object, **_: object) -> None:
        raise Reached(*given)

    with monkeypatch.context() as patch:
        for place in WORK[name]:
            patch.setattr(place, reach)
        with pytest.raises(Reached) as reached:
            status = cli.main(words)
            pytest.fail(f"mixonomy {' '.join(words)} ended with {status} before its work began")
    if name == "train":
        recipe = reached.value.given[0]
        assert isinstance(recipe, mx.Recipe)
        assert recipe.model.name in mx.list_models() or recipe.init is not None


def serve(words: list[str], monkeypatch: pytest.MonkeyPatch, asked: list[Command]) -> None:
    """Runs `mixonomy serve` on any free port, asks for its page and what the calls of curl ask for, and stops it."""
    from mixonomy.serve import server as serving

    def serve_until_asked(engine, settings, metrics, listening, **options):
        server = serving.make_server(engine, settings, metrics, **options)
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
        thread.start()
        try:
            engine.loaded.result(60)
            headers = {"authorization": f"Bearer {settings.api_keys[0]}"} if settings.api_keys else {}
            url = serving.url_of(listening)
            with httpx.Client(base_url=url, headers=headers, timeout=60, trust_env=False) as client:
                assert "mixonomy" in client.get("/").text and client.get("/v1/model").status_code == 200
                for command in asked:
                    assert curl(client, command.words[1:]).json()["predictions"][0]["classes"]
        finally:
            server.should_exit = True
            thread.join(60)

    with monkeypatch.context() as patch:
        patch.setattr(serving, "serve", serve_until_asked)
        assert cli.main([*words, "--port", "0"]) == 0


def curl(client: httpx.Client, words: list[str]) -> httpx.Response:
    """What curl would send, to the server of `client`."""
    parser = argparse.ArgumentParser()
    parser.add_argument("url")
    parser.add_argument("--data-binary")
    parser.add_argument("-F", dest="form", action="append", default=[])
    options = parser.parse_args(words)
    assert options.url.startswith("http://127.0.0.1:8000/")
    path = options.url.removeprefix("http://127.0.0.1:8000")
    if options.data_binary:
        return client.post(path, content=Path(options.data_binary.removeprefix("@")).read_bytes())
    names = [part.split("=@") for part in options.form]
    return client.post(path, files=[(field, Path(name).read_bytes()) for field, name in names])


def check_other(command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    """Looks whether a command of another program names what is there."""
    program, *words = command.words
    text = command.text.partition("  #")[0].strip().removeprefix(".venv/bin/")
    if text in NOT_RUN:
        return
    if program == "make":
        assert set(words) <= set(re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    elif program == "pip":
        extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
        asked = re.fullmatch(r"install mixonomy\[([\w,]+)\]", " ".join(words))
        assert asked and set(asked[1].split(",")) <= extras.keys(), command
    elif program == "python":
        monkeypatch.setattr(argparse.ArgumentParser, "parse_args", parse_and_stop)
        monkeypatch.setattr(sys, "argv", words)
        monkeypatch.setattr(sys, "path", [str(ROOT / "benchmarks"), *sys.path])
        with pytest.raises(Reached):
            runpy.run_path(str(ROOT / words[0]), run_name="__main__")
    elif program in ("sbatch", "examples/two_nodes.sh"):
        script, *words = [word for word in command.words if word != "sbatch"]
        subprocess.run(["bash", "-n", str(ROOT / script)], check=True)
        first = next(number for number, word in enumerate(words) if word.startswith("--"))
        parse_only(["train", *words[first:]], monkeypatch)
    else:
        pytest.fail(f"{command.place} runs {program}, which no test knows; add it here.")


parse_args = argparse.ArgumentParser.parse_args


def parse_and_stop(parser: argparse.ArgumentParser, *given, **named) -> None:
    parse_args(parser, *given, **named)
    raise Reached


def test_the_tables_name_nothing_that_is_not_there():
    texts = [" ".join([*command.words[command.words[0] == "mixonomy" :], ""]) for command in ALL]
    for start in PARSED:
        assert any(re.match(start, text) for text in texts), start
    written = {command.text.partition("  #")[0].strip().removeprefix(".venv/bin/") for command in ALL}
    assert NOT_RUN.keys() <= written


def test_blocks_say_what_they_hold_so_that_no_command_is_missed():
    programs = {command.words[0] for command in ALL}
    for page in PAGES:
        assert not list(blocks(page, "")), f"{page} has a fenced block without a language"
        for line, text in blocks(page, "text"):
            found = [each for each in text.splitlines() if each.split(" ")[0].removeprefix(".venv/bin/") in programs]
            assert found == [], f"{page}:{line}"


PYTHON = [
    pytest.param(code, id=f"{page.relative_to(ROOT)}:{line}") for page in PAGES for line, code in blocks(page, "python")
]


@pytest.mark.parametrize("code", PYTHON)
def test_python_parses_and_names_what_is_there(code):
    compile(code, "page", "exec")
    for name in re.findall(r"\bmx\.(\w+)", code):
        assert name in mx.__all__, name
    for line in re.findall(r"^from mixonomy.* import .*$", code, re.MULTILINE):
        exec(line, {})
