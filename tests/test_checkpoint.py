"""Checkpoints: a restored run takes the very steps it would have taken, and damage is noticed and said."""

import json
import os
import random
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import nn

from mixonomy.bench.turns import held_bytes, most_bytes
from mixonomy.checkpoint import Checkpoints, Progress, optimizer_tensors, restore_optimizers, under
from mixonomy.models import create
from mixonomy.optim import make_optimizers
from mixonomy.recipe import Optim

SIZES = {"patch_size": 4, "hidden_dim": 8, "num_blocks": 1, "tokens_mlp_dim": 5, "channels_mlp_dim": 12}
TENSORS = {
    "model/w": torch.arange(6.0).view(2, 3),
    "optimizer/step": torch.tensor(3.0),
    "best/empty": torch.zeros(0, 2),
}


def steps(*numbers: int) -> list[str]:
    return [f"step-{number:09d}.safetensors" for number in numbers]


def written(folder: Path, *numbers: int) -> Checkpoints:
    """A folder after a checkpoint at each of these steps; tensors differ between steps."""
    checkpoints = Checkpoints(folder)
    for number in numbers:
        tensors = {name: tensor + number for name, tensor in TENSORS.items()}
        checkpoints.save(tensors, Progress(step=number, seen=10 * number, best_score=0.5))
    checkpoints.wait()
    return checkpoints


def take_step(model: nn.Module, optimizers) -> None:
    generator = torch.Generator().manual_seed(0)
    model(torch.randn(4, 3, 8, 8, generator=generator)).square().mean().backward()
    for optimizer in optimizers:
        optimizer.step()
        optimizer.zero_grad()


def fresh(config: Optim, seed: int):
    torch.manual_seed(seed)
    model = create("mixer", num_classes=3, image_size=8, **SIZES)
    nn.init.normal_(model.head.weight)
    return model, make_optimizers(model, config)


@pytest.mark.parametrize(
    "config",
    [Optim(name="adamw", weight_decay=0.1), Optim(name="sgd", momentum=0.9), Optim(name="muon", weight_decay=0.1)],
    ids=lambda config: config.name,
)
def test_restored_run_takes_the_very_same_steps(tmp_path, config):
    model, optimizers = fresh(config, seed=0)
    for _ in range(3):
        take_step(model, optimizers)
    tensors = {f"model/{name}": tensor for name, tensor in model.state_dict().items()}
    tensors |= {f"optimizer/{name}": tensor for name, tensor in optimizer_tensors(model, optimizers).items()}
    checkpoints = Checkpoints(tmp_path)
    checkpoints.save(tensors, Progress(step=3))
    take_step(model, optimizers)  # the checkpoint holds a copy, taken before this
    checkpoints.wait()

    found, progress, damaged = Checkpoints(tmp_path).newest()
    assert progress == Progress(step=3) and damaged == []
    other, other_optimizers = fresh(config, seed=1)
    other.load_state_dict(under("model", found))
    restore_optimizers(under("optimizer", found), other, other_optimizers)
    for _ in range(2):
        take_step(other, other_optimizers)
    take_step(model, optimizers)
    assert all(torch.equal(tensor, model.state_dict()[name]) for name, tensor in other.state_dict().items())
    states = [optimizer_tensors(*pair) for pair in ((model, optimizers), (other, other_optimizers))]
    assert states[0].keys() == states[1].keys() and states[0]
    assert all(torch.equal(tensor, states[1][name]) for name, tensor in states[0].items())


def test_tensors_and_progress_come_back_exactly(tmp_path):
    checkpoints = Checkpoints(tmp_path)
    tensors = {
        **TENSORS,
        "a/bf16": torch.randn(3).bfloat16(),
        "a/int": torch.tensor([2**40]),
        "a/bool": torch.tensor([True, False]),
        "a/strided": torch.arange(6.0).view(2, 3).T,
        "a/nan": torch.tensor([float("nan"), -0.0]),
    }
    progress = Progress(
        step=7, seen=70, seconds=1.25, best_score=1 / 3, best_step=5, log_bytes=123, bad_images={"x.png": "why"}
    )
    checkpoints.save(tensors, progress)
    checkpoints.wait()
    found, found_progress, _ = checkpoints.newest()
    assert found_progress == progress and found.keys() == tensors.keys()
    for name, tensor in tensors.items():
        torch.testing.assert_close(found[name], tensor, rtol=0, atol=0, equal_nan=True)
        assert found[name].dtype == tensor.dtype


def test_empty_folder_has_no_newest(tmp_path):
    assert Checkpoints(tmp_path).newest() is None
    assert Checkpoints(tmp_path / "missing").newest() is None


def test_the_newest_two_are_kept(tmp_path):
    for last in range(1, 5):
        written(tmp_path, last * 10)
        names = sorted(path.name for path in tmp_path.iterdir())
        assert names == steps(*[n * 10 for n in range(max(last - 1, 1), last + 1)])
    assert Checkpoints(tmp_path).newest()[1].step == 40


def test_a_finished_run_keeps_the_newest_alone(tmp_path):
    written(tmp_path, 10, 20).keep_newest()
    assert [path.name for path in tmp_path.iterdir()] == steps(20)


def test_unfinished_write_of_a_killed_process_is_not_taken(tmp_path):
    written(tmp_path, 10)
    (tmp_path / ".step-000000020.safetensors.123.tmp").write_bytes(b"half")
    assert Checkpoints(tmp_path).newest()[1].step == 10


@pytest.mark.parametrize("damage", ["empty", "truncated", "flipped", "text"])
def test_damaged_newest_gives_the_one_before_it_and_says_so(tmp_path, damage):
    written(tmp_path, 10, 20)
    path = tmp_path / steps(20)[0]
    content = bytearray(path.read_bytes())
    if damage == "flipped":
        content[-30] ^= 1
    path.write_bytes({"empty": b"", "truncated": content[:-9], "flipped": content, "text": b"hello"}[damage])
    tensors, progress, damaged = Checkpoints(tmp_path).newest()
    assert progress.step == 10
    assert torch.equal(tensors["model/w"], TENSORS["model/w"] + 10)
    assert len(damaged) == 1 and damaged[0].startswith(path.name)


def test_damaged_one_does_not_take_the_place_of_a_whole_one(tmp_path):
    written(tmp_path, 10, 30)
    (tmp_path / steps(30)[0]).write_bytes(b"hello")
    assert Checkpoints(tmp_path).newest()[1].step == 10
    written(tmp_path, 20)
    assert sorted(path.name for path in tmp_path.iterdir()) == steps(10, 20)


def test_all_damaged_is_one_sentence(tmp_path):
    written(tmp_path, 10, 20)
    for name in steps(10, 20):
        (tmp_path / name).write_bytes(b"hello")
    with pytest.raises(
        ValueError, match="no usable checkpoint: step-000000020.* step-000000010.*start again in another"
    ):
        Checkpoints(tmp_path).newest()


@pytest.mark.slow
def test_any_flipped_bit_is_noticed_and_the_one_before_it_is_taken(tmp_path):
    written(tmp_path, 10, 20)
    path = tmp_path / steps(20)[0]
    content, wrong = path.read_bytes(), []
    format_at = content.index(b'\\"format\\": 1') + len(b'\\"format\\": ')
    for position in random.Random(0).sample(range(len(content) * 8), 600):
        if position // 8 == format_at:
            continue  # a newer format is refused, which is as good
        flipped = bytearray(content)
        flipped[position // 8] ^= 1 << position % 8
        path.write_bytes(flipped)
        try:
            tensors, progress, damaged = Checkpoints(tmp_path).newest()
        except Exception as error:  # whatever escapes is what is looked for
            wrong.append((position // 8, repr(error)))
            continue
        if progress != Progress(step=10, seen=100, best_score=0.5) or len(damaged) != 1:
            whole = progress == Progress(step=20, seen=200, best_score=0.5)
            if not whole or not torch.equal(tensors["model/w"], TENSORS["model/w"] + 20):
                wrong.append((position // 8, f"unnoticed: {progress}"))
    assert not wrong, f"{len(wrong)} of 600, such as {wrong[:5]}"


@pytest.mark.parametrize("change", [{"format": None}, {"progress": None}, {"sha256": None}, {"progress": {"stop": 1}}])
def test_description_that_is_not_whole_counts_as_damage(tmp_path, change):
    written(tmp_path, 10, 20)
    path = tmp_path / steps(20)[0]
    with safe_open(path, framework="pt") as file:
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        content = {**json.loads(file.metadata()["mixonomy"]), **change}
    content = {key: value for key, value in content.items() if value is not None}
    save_file(tensors, path, metadata={"mixonomy": json.dumps(content)})
    assert Checkpoints(tmp_path).newest()[1].step == 10


def test_newer_format_is_refused(tmp_path):
    written(tmp_path, 10, 20)
    path = tmp_path / steps(20)[0]
    content = path.read_bytes()
    path.write_bytes(content.replace(b'\\"format\\": 1', b'\\"format\\": 9'))
    with pytest.raises(ValueError, match="has format 9, this version reads up to 1; update mixonomy"):
        Checkpoints(tmp_path).newest()


def test_failed_write_is_raised_by_the_next_call_and_leaves_the_old_one(tmp_path, monkeypatch):
    checkpoints = written(tmp_path, 10)

    def fail(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", fail)
    checkpoints.save(TENSORS, Progress(step=20))
    with pytest.raises(OSError, match="No space left"):
        checkpoints.wait()
    monkeypatch.undo()
    assert [path.name for path in tmp_path.iterdir()] == steps(10)
    checkpoints.save(TENSORS, Progress(step=30))
    checkpoints.wait()
    assert checkpoints.newest()[1].step == 30


def test_tensors_that_are_copies_already_are_not_copied_again(tmp_path, monkeypatch):
    written = []
    monkeypatch.setattr(Checkpoints, "_write", lambda self, tensors, progress: written.append(tensors))
    checkpoints = Checkpoints(tmp_path)
    for are_copies in (True, False):
        checkpoints.save(TENSORS, Progress(), are_copies=are_copies)
        checkpoints.wait()
    places = [tensors["model/w"].data_ptr() for tensors in (TENSORS, *written)]
    assert places[1] == places[0] != places[2]


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="memory is read from /proc")
def test_a_checkpoint_takes_one_copy_of_the_tensors_in_memory(tmp_path):
    tensors = {f"model/{number}": torch.full((2**22,), float(number)) for number in range(16)}  # 256 MiB
    checkpoints = Checkpoints(tmp_path)

    def write() -> None:
        checkpoints.save(tensors, Progress(step=1))
        checkpoints.wait()

    before = held_bytes()
    assert most_bytes(write) - before < 1.2 * 2**28


def test_prefix_is_matched_as_a_whole():
    tensors = {"best/w": torch.ones(1), "bestiary/w": torch.zeros(1)}
    assert list(under("best", tensors)) == ["w"]
