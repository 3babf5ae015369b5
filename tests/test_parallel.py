"""Several ranks compute what one process computes: the same losses, the same weights, the same scores."""

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from torch import distributed as dist

from mixonomy import data, parallel, train_state, training
from mixonomy.data import loading
from mixonomy.evals import Classification, score
from mixonomy.experiment import Runtime
from mixonomy.loading import load
from mixonomy.predicting import predictor_of
from mixonomy.probing import probe
from mixonomy.recipe import Recipe
from mixonomy.runs import read_metrics
from ranks import environment, in_ranks
from training_runs import TenLines, assert_same_weights, jpeg, killed_at, tiny, weights

pytestmark = pytest.mark.slow  # each starts processes of its own
FIFTY = {"duration": "50 steps", "eval_every": "50 steps"}


def losses(out: Path) -> np.ndarray:
    """Of every step."""
    return np.array([row["loss"] for row in read_metrics(out / "metrics.jsonl") if "loss" in row])


def trained(recipe: Recipe, out: Path) -> dict:
    """The result of a run that logs every step."""
    training.LOG_STEPS = 1
    return training.train(recipe, out)


@pytest.fixture
def alone(monkeypatch):
    """The same in this process."""
    monkeypatch.setattr(training, "LOG_STEPS", 1)
    return training.train


def assert_same_run(one: Path, other: Path) -> None:
    np.testing.assert_allclose(losses(other), losses(one), rtol=1e-5)
    for name, tensor in weights(one).items():  # Adam makes steps of rounding errors where a gradient should be zero
        torch.testing.assert_close(weights(other)[name], tensor, rtol=1e-2, atol=2e-3, msg=name)


@pytest.mark.parametrize("shard", [False, True], ids=["ddp", "fsdp2"])
@pytest.mark.parametrize("optim", [{"name": "adamw"}, {"name": "sgd", "lr": 0.05}], ids=["adamw", "sgd"])
def test_fifty_steps_of_two_ranks_have_the_losses_of_one_process(optim, shard, tmp_path, alone):
    recipe = tiny(**FIFTY, optim={**optim, "shard": shard})
    alone(recipe, tmp_path / "one")
    first, second = in_ranks(2, trained, recipe, tmp_path / "two")
    assert first == second and len(losses(tmp_path / "one")) == 50
    assert_same_run(tmp_path / "one", tmp_path / "two")


VARIANTS = {
    "muon, average and clipping": {"optim": {"name": "muon", "ema": 0.9, "clip": 0.5}},
    "sam in pieces": {"optim": {"sam_rho": 0.1, "accumulate": 4, "clip": 0.5}},
    "checkpointed blocks": {"optim": {"checkpoint_blocks": True}, "balance": "loss"},
    "mixup": {"augment": {"mixup": 0.4}},
    "cutmix": {"augment": {"cutmix_prob": 0.7}, "loss": "sigmoid"},
}


@pytest.mark.parametrize("shard", [False, True], ids=["ddp", "fsdp2"])
@pytest.mark.parametrize("variant", VARIANTS)
def test_three_ranks_that_do_not_divide_the_batch_have_the_losses_of_one_process(variant, shard, tmp_path, alone):
    changes = VARIANTS[variant]
    recipe = tiny(**{**changes, "optim": {**changes.get("optim", {}), "shard": shard}})
    alone(recipe, tmp_path / "one")
    in_ranks(3, trained, recipe, tmp_path / "three")
    assert_same_run(tmp_path / "one", tmp_path / "three")


@pytest.mark.parametrize("changes", [{"freeze": "4 steps"}, {"tune": "bias-norm"}, {"tune": "head"}])
def test_what_is_frozen_at_first_or_for_good_is_so_on_all_ranks(changes, tmp_path, alone):
    recipe = tiny(**changes, optim={"name": "adamw", "ema": 0.9})
    alone(recipe, tmp_path / "one")
    in_ranks(2, trained, recipe, tmp_path / "two")
    assert_same_run(tmp_path / "one", tmp_path / "two")


def test_shares_that_travel_as_bfloat16_train_like_one_process_in_bfloat16(tmp_path, alone):
    recipe = tiny(optim={"shard": True, "checkpoint_blocks": True}, precision="bf16")
    alone(recipe, tmp_path / "one")
    first, _ = in_ranks(2, trained, recipe, tmp_path / "two")
    np.testing.assert_allclose(losses(tmp_path / "two"), losses(tmp_path / "one"), rtol=1e-2)
    assert all(tensor.dtype == torch.float32 for tensor in weights(tmp_path / "two").values())
    assert first["n"] == 359


CPU = torch.device("cpu")


def scored(run: Path) -> tuple[dict, dict]:
    """All scores of a model on the 359 test images of the digits in batches of 50, and few-shot scores."""
    loading.EVAL_BATCH = 50
    with parallel.started(CPU):
        predictor, source = predictor_of(load(run)), data.open_source("digits")
        images = data.EvalData(source.splits["test"], predictor.preprocessing)
        found = score(predictor, images.batches(), Classification(10))
        return found.to_dict(), dict(probe(predictor.model, source, shots=(1, 5), num_seeds=2).scores())


def test_scores_are_the_same_on_one_two_and_three_ranks(tmp_path, monkeypatch):
    training.train(tiny(), tmp_path)
    monkeypatch.setattr(loading, "EVAL_BATCH", 50)
    expected = scored(tmp_path)
    assert expected[0]["n"] == 359
    for size in (2, 3):
        assert in_ranks(size, scored, tmp_path) == [expected] * size


def stopped(recipe: Recipe, out: Path, step: int, number: int) -> None:
    """Runs until the second rank gets a signal in a step."""
    training.LOG_STEPS = 1
    original = train_state.TrainState.step

    def signalling(self, batch, at):
        if at == step and parallel.rank() == 1:
            os.kill(os.getpid(), number)
        return original(self, batch, at)

    train_state.TrainState.step = signalling
    training.train(recipe, out)


@pytest.mark.parametrize(
    ("number", "shard"),
    [(signal.SIGTERM, False), (signal.SIGTERM, True), (signal.SIGUSR1, False), (signal.SIGINT, False)],
)
def test_one_two_one_ranks_keep_one_order_and_a_signal_to_one_saves_within_a_step(number, shard, tmp_path, monkeypatch):
    monkeypatch.setattr(training, "LOG_STEPS", 1)
    recipe = tiny(**FIFTY, augment={"cutmix_prob": 0.5}, optim={"shard": shard})
    training.train(recipe, tmp_path / "whole")
    killed_at(17, monkeypatch, recipe, tmp_path / "parts", runtime=Runtime(checkpoint_minutes=0.0))
    first, second = in_ranks(2, stopped, recipe, tmp_path / "parts", 33, number)
    for stop in (first, second):
        assert isinstance(stop, training.Interrupted) and "stopped after step 34 of 50" in str(stop)
        assert stop.is_preempted == (number != signal.SIGINT)
    training.train(recipe, tmp_path / "parts")
    assert_same_run(tmp_path / "whole", tmp_path / "parts")


@pytest.fixture
def one_bad(tmp_path) -> str:
    """A data set of 25 training images, of which one cannot be read."""
    generator = np.random.default_rng(0)
    for split, count in (("train", 25), ("test", 7)):
        pixels = torch.from_numpy(generator.integers(0, 256, (count, 3, 8, 8), dtype=np.uint8))
        images = [jpeg(image) for image in pixels]
        images[5 if split == "train" else 0] = images[1] if split == "test" else b"no image at all"
        table = pa.table({"image": images, "label": [i % 3 for i in range(count)]})
        pq.write_table(table, tmp_path / f"bad_{split}.parquet")
    return str(tmp_path / "bad")


def on_bad(source: str, **changes) -> Recipe:
    config = {"source": source, "val_share": 0.0, **changes}
    return tiny(data=config, image_size=8, batch_size=5, augment={"mixup": 0.5, "randaugment_layers": 1})


def without_workers(recipe: Recipe, out: Path) -> dict:
    training.LOG_STEPS = 1
    return training.train(recipe, out, runtime=Runtime(workers=0))


def test_parts_that_lack_an_image_weigh_less_and_it_is_named_once(one_bad, tmp_path, monkeypatch):
    monkeypatch.setattr(training, "LOG_STEPS", 1)
    recipe = on_bad(one_bad, on_bad_image="skip", max_bad_share=0.1)
    one = without_workers(recipe, tmp_path / "one")
    found = in_ranks(5, without_workers, recipe, tmp_path / "five")  # of one image each, and once of none
    assert_same_run(tmp_path / "one", tmp_path / "five")
    assert len(one["bad_images"]) == 1 and all(result["bad_images"] == one["bad_images"] for result in found)


def test_error_of_one_rank_is_one_sentence_of_the_first(one_bad, tmp_path):
    found = in_ranks(3, without_workers, on_bad(one_bad), tmp_path / "run")
    said = [str(error) for error in found]
    assert re.fullmatch(r"(on rank [12]: )?image .* not a readable image .*", said[0])
    assert all(isinstance(error, parallel.Failed) for error in found[1:])


def gone(recipe: Recipe, out: Path) -> None:
    """The second rank is killed in its fourth step."""
    original = train_state.TrainState.step

    def dying(self, batch, at):
        if at == 3 and parallel.rank() == 1:
            os.kill(os.getpid(), signal.SIGKILL)
        return original(self, batch, at)

    train_state.TrainState.step = dying
    training.train(recipe, out)


def test_rank_that_is_killed_ends_the_other_with_one_sentence(tmp_path):
    first, second = in_ranks(2, gone, tiny(), tmp_path)
    assert isinstance(first, parallel.RankLost) and second is None, first
    assert "the same command goes on from the last checkpoint" in str(first)


def who_came(late: int, port: int) -> list[int]:
    """All ranks, of which one begins when the other has looked around."""
    store = dist.TCPStore("127.0.0.1", port)
    if parallel.launched_rank() == late:
        store.wait([f"all but {late}"])
        time.sleep(1)
    else:
        store.set(f"all but {late}", "")
    with parallel.started(CPU):
        return parallel.gather(parallel.rank())


def test_ranks_that_are_started_again_do_not_call_those_that_are_gone():
    store = dist.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)  # as torchrun's, over all restarts
    for late in (0, 1):
        assert in_ranks(2, who_came, late, store.port, store_port=store.port) == [[0, 1]] * 2


def of_own_model(recipe: Recipe, out: Path) -> None:
    training.train(recipe, out, model=TenLines())


@pytest.mark.parametrize(
    ("recipe", "work", "said"),
    [
        (tiny(batch_size=1), trained, "1 images of a batch are too few for 2 ranks; give --batch-size 2 or more."),
        (tiny(), of_own_model, "this TenLines has BatchNorm, whose means must be those of the whole batch"),
        (tiny(optim={"shard": True}), of_own_model, "shard is for models without BatchNorm"),
    ],
)
def test_what_ranks_cannot_do_is_refused(recipe, work, said, tmp_path):
    first, second = in_ranks(2, work, recipe, tmp_path / "run")
    assert str(first).startswith(said) and isinstance(second, parallel.Failed)


def test_parts_of_a_batch_are_all_of_it(monkeypatch):
    monkeypatch.setattr(parallel, "size", lambda: 3)
    parts = []
    for rank in range(3):
        monkeypatch.setattr(parallel, "rank", lambda rank=rank: rank)
        parts.append(parallel.part(32))
    assert [i for part in parts for i in range(32)[part]] == list(range(32))
    assert sorted(part.stop - part.start for part in parts) == [10, 11, 11]


def test_commands_for_one_process_are_refused_under_torchrun(monkeypatch, capsys):
    from mixonomy.cli import main

    for name, value in environment(0, 2, 1).items():
        monkeypatch.setenv(name, value)
    assert main(["eval", "runs/x"]) == 1
    assert "mixonomy eval runs in one process, and torchrun started 2" in capsys.readouterr().err
    assert main(["train", "--sweep", "optim.lr=0.1,0.2"]) == 1
    assert "a sweep runs in one process" in capsys.readouterr().err
    monkeypatch.setenv("RANK", "1")
    assert main(["train", "--find-lr"]) == 1
    assert not capsys.readouterr().err, "the first rank says it"


SIZES = ["--model.hidden-dim", "16", "--model.num-blocks", "2", "--model.tokens-mlp-dim", "8"]
LONG = [*SIZES, "--duration", "300 steps", "--eval-every", "20 steps", "--precision", "fp32"]


def torchrun(out: Path, *options: str) -> subprocess.Popen:
    """The command with two ranks."""
    where = ["--nproc-per-node", "2", "--rdzv-backend", "c10d", "--rdzv-endpoint", "localhost:0"]
    launcher = [sys.executable, "-m", "torch.distributed.run", *where, *options]
    command = [*launcher, "-m", "mixonomy", "train", *LONG, "--out", str(out)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def children(process: subprocess.Popen) -> list[int]:
    return [int(pid) for pid in Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()]


def wait_for_a_checkpoint(out: Path) -> None:
    for _ in range(1200):
        if any((out / "checkpoints").glob("step-*.safetensors")):
            return
        time.sleep(0.1)
    raise TimeoutError("no checkpoint after two minutes")


@pytest.mark.very_slow
@pytest.mark.skipif(sys.platform != "linux", reason="finds processes in /proc")
def test_rank_that_is_killed_or_stops_under_torchrun_starts_again_and_ends_with_the_same_weights(tmp_path):
    whole = torchrun(tmp_path / "whole")
    assert whole.communicate()[0] and whole.returncode == 0
    for number in (signal.SIGKILL, signal.SIGTERM):  # of one rank, or of both by the one
        out = tmp_path / number.name
        process = torchrun(out, "--max-restarts", "2")
        wait_for_a_checkpoint(out)
        os.kill(children(process)[-1], number)
        said = process.communicate(timeout=300)[0]
        assert process.returncode == 0, said
        assert "going on from step" in said
        assert_same_weights(tmp_path / "whole", out)


@pytest.mark.very_slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1])
def test_signal_to_torchrun_saves_and_the_same_command_goes_on(number, tmp_path):
    signals = ("--signals-to-handle", "SIGTERM,SIGINT,SIGHUP,SIGQUIT,SIGUSR1")
    process = torchrun(tmp_path, *signals)
    wait_for_a_checkpoint(tmp_path)
    process.send_signal(number)
    said = process.communicate(timeout=300)[0]
    assert process.returncode != 0 and re.search(r"stopped after step \d+ of 300, all saved", said), said
    again = torchrun(tmp_path)
    said = again.communicate(timeout=300)[0]
    assert again.returncode == 0 and "going on from step" in said


@pytest.mark.very_slow
def test_ready_file_for_two_machines_trains_on_one_that_plays_both(tmp_path):
    script = Path(__file__).parents[1] / "examples/two_nodes.sh"
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    store = dist.TCPStore("localhost", 0, is_master=True, wait_for_workers=False)  # a port that nobody else takes
    variables = {**os.environ, "PATH": path, "PORT": str(store.port), "RANKS": "1"}
    command = [script, "localhost", *SIZES, "--duration", "10 steps", "--out", tmp_path]
    nodes = [subprocess.Popen(command, env=variables, stderr=subprocess.PIPE, text=True) for _ in range(2)]
    said = [node.communicate(timeout=300)[1] for node in nodes]
    assert [node.returncode for node in nodes] == [0, 0], said
    assert sum("2 ranks (DDP)" in text for text in said) == 1
