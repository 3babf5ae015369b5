"""Short runs that the tests of training share, and how to end one in the middle."""

import io
import threading
from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from torch import nn

from mixonomy import train_state
from mixonomy.recipe import Recipe, changed
from mixonomy.recipes import load_recipe
from mixonomy.training import train

DIGITS = load_recipe("digits")


def tiny(**changes) -> Recipe:
    """Ten steps of a one-block Mixer on the digits."""
    sizes = {"hidden_dim": 16, "num_blocks": 2, "tokens_mlp_dim": 8, "channels_mlp_dim": 32}
    values = {"model": sizes, "duration": "10 steps", "batch_size": 32, "eval_every": "5 steps", "precision": "fp32"}
    for key, value in changes.items():
        values[key] = {**values.get(key, {}), **value} if isinstance(value, dict) else value
    return changed(DIGITS, **values)


def weights(out: Path) -> dict[str, torch.Tensor]:
    return load_file(out / "model.safetensors")


def assert_same_weights(one: Path, other: Path) -> None:
    first, second = weights(one), weights(other)
    assert first.keys() == second.keys()
    for name in first:
        assert torch.equal(first[name], second[name]), name


class Killed(BaseException):
    """Stands for a process that is gone: nothing catches it, nothing is saved."""


def killed_at(step: int, monkeypatch: pytest.MonkeyPatch, recipe: Recipe, out: Path, **options) -> None:
    """Runs until a step and stops there without any clean-up of ours."""
    original, others = train_state.TrainState.step, set(threading.enumerate())

    def dying(self, batch, at):
        if at == step:
            raise Killed
        return original(self, batch, at)

    with monkeypatch.context() as patch:
        patch.setattr(train_state.TrainState, "step", dying)
        with pytest.raises(Killed):
            train(recipe, out, **options)
    for thread in set(threading.enumerate()) - others:  # a write that had begun is over, one way or the other
        if thread.name.startswith("ThreadPoolExecutor"):
            thread.join(timeout=10)


class TenLines(nn.Module):
    """Somebody's own classifier."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(1, 8, 3)
        self.norm = nn.BatchNorm2d(8)
        self.head = nn.Linear(8, 10)

    def forward(self, images):
        return self.head(self.norm(self.conv(images)).relu().mean((2, 3)))


def jpeg(pixels: torch.Tensor) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels.permute(1, 2, 0).numpy()).save(file, "JPEG")
    return file.getvalue()
