"""The commands, run as a person runs them: their output, their exit status, and what they say of wrong input."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from mixonomy.cli import COMMANDS, main
from mixonomy.cli.train import expand

SMALL = [
    *("--model.hidden-dim", "16", "--model.num-blocks", "2", "--model.tokens-mlp-dim", "8"),
    *("--model.channels-mlp-dim", "32", "--eval-every", "10 steps"),
]


def call(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    """(exit status, standard output, standard error) of a command in this process."""
    try:
        status = main(arguments)
    except SystemExit as stop:
        status = stop.code if isinstance(stop.code, int) else 1
    out, err = capsys.readouterr()
    return status, out, err


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    """A finished run."""
    out = tmp_path_factory.mktemp("cli") / "run"
    assert main(["train", *SMALL, "--duration", "30 steps", "--out", str(out)]) == 0
    return out


@pytest.fixture
def digit(tmp_path) -> Path:
    from mixonomy.data import open_source

    path = tmp_path / "digit é.png"
    path.write_bytes(bytes(open_source("digits").splits["test"].images[0]))
    return path


@pytest.mark.parametrize("arguments", [["--help"], *([name, "--help"] for name in COMMANDS)])
def test_help_answers_quickly_and_imports_no_torch(arguments):
    code = (
        "import sys; from mixonomy.cli import main\n"
        f"try: main({arguments!r})\n"
        "except SystemExit as stop: assert stop.code == 0\n"
        "heavy = {'torch', 'torchvision', 'numpy', 'matplotlib', 'timm'} & set(sys.modules)\n"
        "assert not heavy, heavy"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "usage: mixonomy" in done.stdout


def test_train_json_is_the_last_line_and_people_read_standard_error(tmp_path):
    out = tmp_path / "run"
    command = [sys.executable, "-m", "mixonomy", "train", *SMALL, "--duration", "10 steps", "--out", str(out), "--json"]
    first = subprocess.run(command, capture_output=True, text=True, check=True)
    result = json.loads(first.stdout.splitlines()[-1])
    assert len(first.stdout.splitlines()) == 1 and "top-1" in first.stderr
    assert {"top1", "top5", "nll", "ece", "n", "params", "images_per_s", "seconds", "out"} <= result.keys()
    assert result["out"] == str(out) and (out / "report.html").is_file()
    assert json.loads((out / "run.json").read_text())["command"].startswith("mixonomy train --model.hidden-dim 16")
    again = subprocess.run(command, capture_output=True, text=True, check=True)
    assert json.loads(again.stdout) == result and "is finished" in again.stderr


def test_without_out_the_same_recipe_finds_its_folder_again(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    outs = []
    for lr in ("0.001", "0.001", "0.002"):
        status, out, _ = call(capsys, "train", *SMALL, "--duration", "2 steps", "--lr", lr, "--json")
        assert status == 0
        outs.append(json.loads(out)["out"])
    assert outs[0] == outs[1] != outs[2] and all(out.startswith("runs/digits-") for out in outs)


def test_eval_prints_what_training_printed(run, capsys):
    result = json.loads((run / "result.json").read_text())
    status, out, err = call(capsys, "eval", str(run), "--json")
    scores = json.loads(out)
    assert status == 0 and {key: scores[key] for key in ("top1", "top5", "nll", "ece", "n")} == {
        key: result[key] for key in ("top1", "top5", "nll", "ece", "n")
    }
    assert len(scores["per_class"]) == len(scores["confusion"]) == 10
    assert call(capsys, "eval", str(run), "--split", "val", "--json")[1] != out


def test_eval_by_real_labels_of_data_that_is_not_imagenet_is_one_sentence(run, tmp_path, capsys):
    real = tmp_path / "real.json"
    status, out, err = call(capsys, "eval", str(run), "--real", str(real))
    assert status == 1 and not out and err.startswith(f"mixonomy eval: no ReaL labels in {real}")
    real.write_text(json.dumps([[]] * 50_000))
    status, out, err = call(capsys, "eval", str(run), "--real", str(real))
    assert status == 1 and not out
    assert err.startswith("mixonomy eval: digits does not say which of ImageNet's classes its own are; give data with")


def test_train_ends_with_what_to_do_next(run, capsys):
    from mixonomy.report import advise, read_finished
    from mixonomy.runs import RunFolder

    expected = [advice.text for advice in advise(read_finished(RunFolder(run)))]
    status, out, _ = call(capsys, "train", *SMALL, "--duration", "30 steps", "--out", str(run))
    lines = out.splitlines()
    assert status == 0 and expected
    assert lines[lines.index("what to do next:") + 1 :] == [f"{i}. {text}" for i, text in enumerate(expected, start=1)]


def write_digits(folder: Path, *, num_images: int, is_multilabel: bool) -> Path:
    """A CSV of digits, labelled by themselves or as odd, prime, both or neither."""
    from mixonomy.data import open_source

    train, lines = open_source("digits").splits["train"], ["path,label"]
    for i in range(num_images):
        digit = int(train.labels[i])
        (folder / f"{i}.png").write_bytes(bytes(train.images[i]))
        several = ";".join(["odd"] * (digit % 2) + ["prime"] * (digit in (2, 3, 5, 7)))
        lines.append(f"{i}.png,{several if is_multilabel else digit}")
    (folder / "labels.csv").write_text("\n".join(lines))
    return folder / "labels.csv"


def test_eval_stops_at_a_bad_image_or_leaves_it_out(run, tmp_path, capsys):
    labels = write_digits(tmp_path, num_images=40, is_multilabel=False)
    command = ["eval", str(run), "--data", str(labels), "--split", "train", "--json"]
    n = json.loads(call(capsys, *command)[1])["n"]
    (tmp_path / "3.png").write_bytes(b"no image")
    status, _, err = call(capsys, *command)
    assert status == 1 and "'3.png': not a readable image" in err and len(err.strip().splitlines()) == 1
    status, out, err = call(capsys, *command, "--on-bad-image", "skip")
    assert status == 0 and json.loads(out)["n"] == n - 1, err


def test_several_labels_are_trained_and_scored_with_their_own_measures(tmp_path, capsys):
    labels, out = write_digits(tmp_path, num_images=200, is_multilabel=True), tmp_path / "run"
    command = ("train", "--recipe", "digits", "--data", str(labels), *SMALL, "--label-smoothing", "0")
    status, printed, err = call(capsys, *command, "--duration", "10 steps", "--out", str(out))
    assert status == 0, err
    assert printed.startswith("mean average precision ") and (out / "report.html").is_file()
    status, printed, _ = call(capsys, "eval", str(out))
    lines = [line.split() for line in printed.splitlines()]
    assert status == 0 and [line[0] for line in lines[:6]] == ["map", "micro_f1", "macro_f1", "exact", "nll", "n"]
    assert lines[6] == ["class", "ap", "threshold", "precision", "recall", "f1", "n"]
    assert [line[0] for line in lines[7:]] == ["odd", "prime"]


def test_predict_names_classes_and_exits_with_one_for_a_bad_file(run, digit, tmp_path, capsys):
    bad = tmp_path / "text.jpg"
    bad.write_text("no image")
    status, out, _ = call(capsys, "predict", str(run), str(digit), "--json", "--top", "2")
    row = json.loads(out)
    assert status == 0 and row["path"] == str(digit) and len(row["classes"]) == 2
    assert set(row["classes"][0]) == {"name", "prob"}
    status, out, _ = call(capsys, "predict", str(run), str(bad), str(digit), "--json")
    rows = [json.loads(line) for line in out.splitlines()]
    assert status == 1 and "not a readable image" in rows[0]["error"] and rows[1]["classes"]


def test_report_is_written_again(run, capsys):
    (run / "report.html").unlink()
    status, out, _ = call(capsys, "report", str(run), "--json")
    assert status == 0 and json.loads(out)["report"] == str(run / "report.html")
    assert (run / "report.html").is_file()


def test_list_of_weights_has_every_fact_and_says_the_trap_once(capsys):
    status, out, err = call(capsys, "list", "weights", "--json")
    rows = {row["name"]: row for row in json.loads(out)["weights"]}
    assert status == 0 and rows["timm:mixer_b16_224.goog_in21k_ft_in1k"]["reported"][0]["top1"] == 76.616
    assert {"licence", "gelu", "pixels", "num_classes", "image_size", "note"} <= rows[
        "timm:gmlp_s16_224.ra3_in1k"
    ].keys()
    assert err.count("trained on ImageNet-1k alone") == 1
    plain = call(capsys, "list", "weights")[1]
    assert plain == err and "76.616 % on imagenet1k (timm results/results-imagenet.csv)" in plain


def test_lists_import_no_timm():
    code = (
        "import sys; from mixonomy.cli import main\n"
        "assert main(['list', 'models']) == main(['list', 'weights']) == 0 and 'timm' not in sys.modules"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "timm:resnet50" in done.stdout


@pytest.mark.parametrize(("what", "name"), [("models", "mixer-b/16"), ("data", "cifar10"), ("recipes", "digits")])
def test_list_names(what, name, capsys):
    status, out, _ = call(capsys, "list", what, "--json")
    assert status == 0 and name in json.loads(out)[what]


def test_short_forms_and_equal_signs():
    given = ["--data=x", "--epochs", "3", "--lr=0.1", "--model", "mixer", "--optim.lr", "2"]
    written = ["--data.source", "x", "--duration", "3 epochs", "--optim.lr", "0.1", "--model.name", "mixer"]
    assert expand(given) == [*written, "--optim.lr", "2"]


def test_short_forms_for_images_of_ones_own():
    given = ["--crop", "center", "--on-bad-image", "skip", "--max-bad-share=0.5", "--crop=pad"]
    written = ["--data.eval-crop", "resmall", "--data.on-bad-image", "skip", "--data.max-bad-share", "0.5"]
    assert expand(given) == [*written, "--data.eval-crop", "pad"]
    with pytest.raises(ValueError, match="--crop is 'middle'; use center, resize, squash or pad"):
        expand(["--crop", "middle"])


def test_a_new_choice_drops_what_belonged_to_the_old_one(tmp_path, capsys):
    options = ("--augment.crop", "none", "--duration", "1 steps", "--out", str(tmp_path / "run"))
    status, _, err = call(capsys, "train", *options)
    assert status == 0, err
    recipe = json.loads((tmp_path / "run/run.json").read_text())["recipe"]
    assert recipe["augment"]["pad"] is None


WRONG = {
    "unknown command": (["trian"], 2, "unknown command 'trian'; did you mean 'train'?"),
    "unknown option": (
        ["train", "--optim.lrr", "1"],
        2,
        "unrecognized options: --optim.lrr, 1; did you mean --optim.lr",
    ),
    "unknown choice": (["train", "--optim.name", "adam"], 2, "Expected one of ('adamw', 'sgd', 'muon')"),
    "unknown model": (["train", "--model", "mixer-b16"], 1, "unknown model 'mixer-b16'; did you mean 'mixer-b/16'?"),
    "model without sizes": (
        ["train", "--model", "mixer-s/16", "--image-size", "9"],
        1,
        "is not divisible by patch size 16",
    ),
    "unknown data": (["train", "--data", "cifr10"], 1, "did you mean 'cifar10'?"),
    "unknown recipe": (["train", "--recipe", "digit"], 1, "did you mean 'digits'?"),
    "recipe file missing": (["train", "--recipe", "mine.py"], 1, "no recipe file mine.py"),
    "unknown model of timm": (["train", "--model", "timm:resnt18"], 1, "did you mean 'timm:resnet18'?"),
    "stem of our own": (
        ["train", "--model.stem", "small"],
        1,
        "stem has no effect on mixer; it belongs to models of timm",
    ),
    "muon without matrices": (
        ["train", "--model", "timm:test_resnet", "--optim.name", "muon"],
        1,
        "muon needs matrices in a part named `blocks`, and this model has none",
    ),
    "layers in several sequences": (
        ["train", "--model", "timm:test_resnet", "--optim.layer-decay", "0.7"],
        1,
        "layer_decay needs one sequence of blocks",
    ),
    "image size": (
        ["train", "--image-size", "9"],
        1,
        "image size 9x9 is not divisible by patch size 2; use 8x8 or 10x10",
    ),
    "learning rate nan": (["train", "--lr", "nan"], 2, "--optim.lr: Input should be a finite number, not nan"),
    "rates text": (["transfer", "x", "--suite", "avg5", "--lr", "a", "1"], 2, "--lr: a, 1 is not a list of numbers;"),
    "sizes text": (
        ["transfer", "x", "--suite", "avg5", "--image-size", "8x8"],
        2,
        "--image-size: 8x8 is not a list of whole numbers;",
    ),
    "count text": (["transfer", "x", "--suite", "avg5", "--seeds", "a"], 2, "--seeds: a is not a whole number;"),
    "learning rate text": (["train", "--lr", "fast"], 2, "--optim.lr: fast is not a number;"),
    "duration": (["train", "--duration", "forever"], None, "'forever' is not a duration; write it like '14 epochs'"),
    "option without effect": (["train", "--optim.momentum", "0.9"], 2, "momentum has no effect with name=adamw"),
    "device": (["train", "--device", "tpu"], 1, "unknown device 'tpu'; use auto"),
    "device number": (["train", "--device", "cpu:foo"], 1, "unknown device 'cpu:foo'"),
    "run folder": (["eval", "/nowhere"], 1, "no file or run folder /nowhere"),
    "home of nobody": (["eval", "~nosuchuser/run"], 1, "no file or run folder ~nosuchuser/run"),
    "split": (["eval", "/nowhere", "--split", "tset"], 2, "invalid choice 'tset'"),
    "no files": (["predict", "/nowhere"], None, "image files"),
    "list": (["list", "modles"], 2, "invalid choice 'modles'"),
    "report": (["report", "/nowhere"], 1, "is no run folder: it has no run.json"),
}


@pytest.mark.parametrize("case", WRONG)
def test_wrong_input_is_one_sentence_and_a_status(case, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    arguments, expected, message = WRONG[case]
    status, out, err = call(capsys, *arguments)
    assert message in err and "Traceback" not in err
    assert len(err.strip().splitlines()) == 1 and out == ""
    assert status in ((1, 2) if expected is None else (expected,))
    assert not list(tmp_path.iterdir()), "a refused command leaves nothing behind"


def test_unreadable_parquet_is_named(tmp_path, capsys):
    path = tmp_path / "broken_train.parquet"
    path.write_bytes(b"PAR1 and then nothing")
    status, _, err = call(capsys, "train", "--data", str(tmp_path / "broken"), "--out", str(tmp_path / "run"))
    assert status == 1 and str(path) in err and "cannot be read as parquet" in err
    assert len(err.strip().splitlines()) == 1


def test_unwritable_output_is_named(tmp_path, capsys):
    (tmp_path / "file").write_text("")
    status, _, err = call(capsys, "train", "--out", str(tmp_path / "file/run"))
    assert status == 1 and "cannot write to" in err.splitlines()[-1]


def test_checkpoint_of_another_model_is_refused(run, tmp_path, capsys):
    status, _, err = call(
        capsys, "train", *SMALL, "--duration", "30 steps", "--out", str(run), "--model.num-blocks", "3"
    )
    assert status == 1 and "model.num_blocks (2 there, 3 now)" in err


def test_debug_shows_the_traceback(tmp_path):
    command = [sys.executable, "-m", "mixonomy", "eval", str(tmp_path / "none"), "--debug"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 1 and "Traceback" in done.stderr


def test_reader_that_stops_reading_is_no_error(run, digit):
    command = f"{sys.executable} -m mixonomy list recipes | true"
    done = subprocess.run(["bash", "-o", "pipefail", "-c", command], capture_output=True, text=True)
    assert "Traceback" not in done.stderr and "Exception" not in done.stderr


def test_find_lr_prints_a_rate_and_leaves_the_folder_to_the_run_that_takes_it(tmp_path, capsys):
    out = tmp_path / "runs" / "run"
    common = ("train", *SMALL, "--duration", "10 steps", "--out", str(out), "--json")
    status, printed, said = call(capsys, *common, "--find-lr")
    found = json.loads(printed)
    assert status == 0 and set(found) == {"lr", "rest_lr", "curve", "page"}
    assert found["page"] == str(tmp_path / "runs" / "run.find-lr.html") and Path(found["page"]).is_file()
    assert 1e-5 < found["lr"] < 0.1 and found["rest_lr"] is None and f"--lr {found['lr']:g}" in said
    assert len(found["curve"]) > 50 and set(found["curve"][0]) == {"lr", "loss", "smoothed"}
    assert [path.name for path in (tmp_path / "runs").iterdir()] == ["run.find-lr.html"]
    status, printed, _ = call(capsys, *common, "--lr", str(found["lr"]))
    assert status == 0 and json.loads(printed)["out"] == str(out)


@pytest.mark.parametrize("option", [("--track", "tensorboard"), ("--checkpoint-minutes", "1")])
def test_option_that_a_range_test_does_not_read_is_refused(option, tmp_path, capsys):
    status, _, said = call(capsys, "train", "--find-lr", "--out", str(tmp_path / "run"), *option)
    assert status == 1 and said == f"mixonomy train: {option[0]} has no effect with --find-lr; leave it out.\n"
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_the_default_command_reaches_97_percent_in_a_minute(tmp_path):
    start = time.monotonic()
    command = [sys.executable, "-m", "mixonomy", "train", "--out", str(tmp_path / "run"), "--json"]
    done = subprocess.run(command, capture_output=True, text=True, check=True, env={**os.environ})
    result = json.loads(done.stdout)
    assert result["top1"] >= 0.97 and result["n"] == 359
    assert time.monotonic() - start < 300, "half a minute on two free cores; far more is a defect"


def test_recipe_file_that_is_no_python_is_one_sentence(tmp_path, capsys):
    (tmp_path / "mine.py").write_text("recipe = (")
    status, _, err = call(capsys, "train", "--recipe", str(tmp_path / "mine.py"))
    assert status == 1 and "cannot be run as Python (SyntaxError" in err and len(err.strip().splitlines()) == 1


def test_damaged_run_json_is_named(tmp_path, capsys):
    (tmp_path / "run.json").write_text("{}")
    status, _, err = call(capsys, "report", str(tmp_path))
    assert status == 1 and "run.json is damaged" in err and len(err.strip().splitlines()) == 1


@pytest.mark.parametrize(
    ("error", "says"),
    [
        (MemoryError(), "this machine's memory is full"),
        (RuntimeError("[enforce fail at alloc_cpu.cpp:127] err == 0. DefaultCPUAllocator: can't allocate memory: you"),
         "this machine's memory is full"),
    ],
    ids=["python", "torch"],
)  # fmt: skip
def test_full_memory_is_one_sentence(error, says, capsys, monkeypatch):
    def full(_):
        raise error

    monkeypatch.setattr("mixonomy.cli.list.main", full)
    status, out, err = call(capsys, "list")
    assert (status, out) == (1, "") and says in err and "--batch-size" in err and len(err.splitlines()) == 1


@pytest.mark.parametrize(
    ("error", "says"),
    [
        (OSError(28, "No space left on device", "/x/run"), "the disk of /x/run is full; make room, then run the same"),
        (OSError(28, "No space left on device"), "the disk is full; make room, then run the same command again."),
        (
            RuntimeError("DataLoader worker (pid 3) is killed by signal: Killed. "),
            "ended from outside, as happens when",
        ),
    ],
    ids=["file", "no name", "worker"],
)
def test_full_disk_and_killed_worker_are_one_sentence(error, says, capsys, monkeypatch):
    def fail(_):
        raise error

    monkeypatch.setattr("mixonomy.cli.list.main", fail)
    status, out, err = call(capsys, "list")
    assert (status, out) == (1, "") and says in err and len(err.splitlines()) == 1


@pytest.mark.parametrize(
    ("given", "says"),
    [
        (("abc",), "--image-size: abc is not a whole number or two of them;"),
        (("8", "8", "8"), "--image-size: 8, 8, 8 is not a whole number or two of them;"),
        (("30x",), "--image-size: 30x is not a whole number or two of them;"),
    ],
)
def test_wrong_image_size_is_one_sentence(given, says, capsys):
    status, out, err = call(capsys, "train", "--image-size", *given)
    assert (status, out) == (2, "") and err.startswith(f"mixonomy train: {says}") and len(err.splitlines()) == 1


def test_image_size_may_be_written_with_an_x():
    assert expand(["--image-size", "30x40", "--lr", "1"]) == ["--image-size", "30", "40", "--optim.lr", "1"]
    with pytest.raises(ValueError, match="--epochs and --duration both say"):
        expand(["--epochs=2", "--duration", "5 steps"])
    assert expand(["--image-size=30x40"]) == ["--image-size", "30", "40"]


def test_option_that_silences_another_of_the_recipe_needs_no_second_one(tmp_path, capsys):
    recipe = tmp_path / "mine.py"
    recipe.write_text(
        "from mixonomy.recipe import Augment, Data, Optim, changed\nfrom mixonomy.recipes import load_recipe\n"
        "recipe = changed(load_recipe('digits'), optim={'schedule': 'cosine', 'end': 0.1}, "
        "augment={'randaugment_layers': 1, 'randaugment_magnitude': 5, 'cutmix_prob': 0.5}, "
        "data={'on_bad_image': 'skip', 'max_bad_share': 0.5})\n"
    )
    options = ("--optim.schedule", "constant", "--augment.randaugment-layers", "0", "--on-bad-image", "error")
    options += ("--augment.mixup", "0.2")
    command = ("train", "--recipe", str(recipe), *SMALL, "--duration", "2 steps", "--out", str(tmp_path / "run"))
    status, _, err = call(capsys, *command, *options)
    assert status == 0, err
    status, _, err = call(capsys, *command, *options, "--optim.end", "0.2")
    assert status == 2 and "end has no effect with schedule=constant" in err
