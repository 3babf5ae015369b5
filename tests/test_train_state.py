"""One training step, beside the same step written out by hand.

Axes: B images, K classes.
"""

import copy

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional

from mixonomy import train_state
from mixonomy.data import Batch
from mixonomy.preprocessing import Preprocessing
from mixonomy.recipe import Optim, Recipe
from mixonomy.train_state import TrainState

CPU = torch.device("cpu")
LR, RHO, CLIP, EMA = 0.5, 0.2, 0.05, 0.75


class Small(nn.Module):
    """Dropout and BatchNorm, whose second passes could differ from the first."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(1)
        self.hidden, self.norm, self.drop, self.out = (
            nn.Linear(4, 6),
            nn.BatchNorm1d(6),
            nn.Dropout(0.5),
            nn.Linear(6, 3),
        )

    def forward(self, images):
        return self.out(self.drop(self.norm(self.hidden(images.flatten(1))).tanh()))


def state_of(model: nn.Module, precision: str = "fp32", **changes) -> TrainState:
    config = Optim(name="sgd", lr=LR, momentum=0.0, schedule="constant", warmup="0 steps", **changes)
    recipe = Recipe(optim=config, batch_size=8, label_smoothing=0.0)
    preprocessing = Preprocessing((2, 2), channels=1, crop="squash", mean=(0.5,), std=(0.5,))
    return TrainState(recipe, model, preprocessing, 3, CPU, precision, total=10, warmup=0, loss="softmax")


def batch() -> Batch:
    generator = torch.Generator().manual_seed(2)
    pixels = torch.randint(0, 256, (8, 1, 2, 2), generator=generator, dtype=torch.uint8)
    return Batch(pixels, torch.arange(8) % 3, np.arange(8, dtype=np.uint64))


def gradient(model: nn.Module, seed: int, precision: str) -> list[torch.Tensor]:
    """Of the mean cross-entropy over the batch."""
    torch.manual_seed(seed)
    images = batch().images.float() / 127.5 - 1.0
    with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16"):
        logits = model(images)
    return list(torch.autograd.grad(functional.cross_entropy(logits.float(), batch().labels), list(model.parameters())))


def norm_of(tensors: list[torch.Tensor]) -> torch.Tensor:
    return torch.cat([tensor.flatten() for tensor in tensors]).norm()


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_sam_step_is_the_one_written_out_with_clipping_average_and_the_same_dropout(precision, monkeypatch):
    model, by_hand = Small(), Small()
    seeds = []
    seed_everything = torch.manual_seed
    monkeypatch.setattr(train_state.torch, "manual_seed", lambda seed: seeds.append(seed) or seed_everything(seed))
    state = state_of(model, precision, sam_rho=RHO, clip=CLIP, ema=EMA)
    average = copy.deepcopy(by_hand)
    for step in range(2):
        seeds.clear()
        loss = state.step(batch(), step)
        assert len(set(seeds)) == 1, "both passes have one seed"
        seed = seeds[0]
        with torch.no_grad():
            plain = copy.deepcopy(by_hand)
        first = gradient(by_hand, seed, precision)  # also what BatchNorm remembers
        above = copy.deepcopy(by_hand)
        with torch.no_grad():
            for p, g in zip(above.parameters(), first, strict=True):
                p += RHO * g / norm_of(first)
        second = gradient(above, seed, precision)
        assert norm_of(second) > CLIP
        with torch.no_grad():
            for p, g in zip(by_hand.parameters(), second, strict=True):
                p -= LR * g * CLIP / norm_of(second)
            for mean, p in zip(average.parameters(), by_hand.parameters(), strict=True):
                mean.copy_(EMA * mean + (1 - EMA) * p)
        torch.manual_seed(seed)
        with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16"):
            logits = plain(batch().images.float() / 127.5 - 1.0)
        torch.testing.assert_close(loss, functional.cross_entropy(logits.float(), batch().labels).detach())
    close = {"rtol": 1e-5, "atol": 1e-6}
    for name, tensor in by_hand.state_dict().items():
        torch.testing.assert_close(model.state_dict()[name], tensor, msg=name, **close)
    assert state.average is not None
    for (name, mean), mine in zip(average.named_parameters(), state.average.parameters(), strict=True):
        torch.testing.assert_close(mine.detach(), mean.detach(), msg=name, **close)
    assert all(p.dtype == torch.float32 and p.grad is None for p in model.parameters())


def test_sam_climbs_along_the_gradient_of_the_whole_batch_not_of_a_piece():
    def trained(pieces: int) -> nn.Module:
        torch.manual_seed(3)
        model = nn.Sequential(nn.Flatten(), nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 3))
        state = state_of(model, sam_rho=RHO, accumulate=pieces)
        for step in range(3):
            state.step(batch(), step)
        return model

    for whole, pieces in zip(trained(1).parameters(), trained(4).parameters(), strict=True):
        torch.testing.assert_close(pieces, whole, rtol=1e-5, atol=1e-6)


def test_sam_step_differs_from_the_plain_one_and_approaches_it_with_a_small_rho():
    def after(**changes) -> torch.Tensor:
        model = Small()
        state_of(model, **changes).step(batch(), 0)
        return model.hidden.weight.detach()

    plain = after()
    assert (after(sam_rho=0.2) - plain).norm() > 1e-3
    torch.testing.assert_close(after(sam_rho=1e-6), plain, rtol=1e-4, atol=1e-6)


def test_guess_of_the_length_changes_nothing():
    model = Small()
    state = state_of(model)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    seconds = state.expected_seconds(1000)
    assert 0 < seconds < 1000 and state.expected_seconds(10**6) > seconds
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert all(p.grad is None for p in model.parameters())
