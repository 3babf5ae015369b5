"""Several ranks compute what one process computes: the same losses, the same weights, the same scores."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from mixonomy import training
from mixonomy.recipe import Recipe
from mixonomy.runs import read_metrics
from ranks import in_ranks
from training_runs import tiny, weights

STEPS = {"duration": "50 steps", "eval_every": "50 steps"}
VARIANTS = {
    "adamw": {},
    "sgd": {"optim": {"name": "sgd", "lr": 0.05}},
}


def losses(out: Path) -> np.ndarray:
    return np.array([row["loss"] for row in read_metrics(out / "metrics.jsonl") if "loss" in row])


def trained(recipe: Recipe, out: Path) -> dict:
    training.LOG_STEPS = 1
    return training.train(recipe, out)


@pytest.mark.slow
@pytest.mark.parametrize("shard", [False, True], ids=["ddp", "fsdp2"])
@pytest.mark.parametrize("variant", VARIANTS)
def test_two_ranks_have_the_losses_of_one(variant, shard, tmp_path, monkeypatch):
    monkeypatch.setattr(training, "LOG_STEPS", 1)
    changes = {**STEPS, **VARIANTS[variant]}
    changes["optim"] = {**changes.get("optim", {}), "shard": shard}
    recipe = tiny(**changes)
    one = training.train(recipe, tmp_path / "one")
    first, second = in_ranks(2, trained, recipe, tmp_path / "two")
    assert first == second, (first, second)
    expected = losses(tmp_path / "one")
    assert len(expected) == 50
    np.testing.assert_allclose(losses(tmp_path / "two"), expected, rtol=1e-5)
    print(np.abs(losses(tmp_path / "two") / expected - 1).max())
    for name, tensor in weights(tmp_path / "one").items():
        torch.testing.assert_close(weights(tmp_path / "two")[name], tensor, rtol=1e-3, atol=1e-4, msg=name)
    assert {**first, "seconds": 0, "images_per_s": 0, "out": ""}.keys() == one.keys()
