"""The learning-rate range test: which rates it tries, when it stops, and what it reads off the curve."""

import math

import numpy as np
import pytest
import torch
from torch import nn

from mixonomy import train_state, training
from mixonomy.lr_range import find_lr, smooth, suggest
from mixonomy.recipe import Recipe, changed
from mixonomy.recipes import load_recipe

RATES = np.geomspace(1e-5, 10.0, 121)  # twenty to a decade


def tiny(**changes) -> Recipe:
    sizes = {"hidden_dim": 16, "num_blocks": 2, "tokens_mlp_dim": 8, "channels_mlp_dim": 32}
    return changed(load_recipe("digits"), model=sizes, batch_size=32, **changes)


def fall(at: float, depth: float = 1.0) -> np.ndarray:
    """From 2 down by `depth`, half of it at the rate `at`, over about a decade."""
    return 2.0 - depth / (1.0 + (at / RATES) ** 4)


def test_average_is_the_weighted_mean_of_what_came_before():
    losses = [3.0, 1.0, 2.0, 5.0]
    weights = [0.9**3, 0.9**2, 0.9, 1.0]
    assert smooth(losses)[-1] == pytest.approx(np.average(losses, weights=weights))
    assert smooth(losses)[0] == 3.0 and smooth([2.0] * 50) == pytest.approx(np.full(50, 2.0))


def test_where_the_loss_turns_soon_the_suggestion_is_a_tenth_of_the_rate_of_the_minimum():
    valley = fall(3e-3) + np.maximum(0.0, np.log10(RATES / 0.01)) ** 2
    lowest = RATES[valley.argmin()]
    assert 0.005 < lowest < 0.03
    assert suggest(RATES, valley) == pytest.approx(lowest / 10, rel=0.05)


def test_where_nothing_diverges_the_suggestion_is_at_half_of_the_fall_and_not_at_the_end():
    assert suggest(RATES, fall(0.02)) == pytest.approx(0.02, rel=0.13)
    longer = fall(0.02) - 0.01 * np.log10(RATES / RATES[0])  # still falling a little at the end of the range
    assert suggest(RATES, longer) == pytest.approx(0.02, rel=0.3)


def test_noise_moves_the_suggestion_little():
    found = []
    for seed in range(20):
        noisy = fall(0.02) + 0.2 * np.random.default_rng(seed).standard_normal(len(RATES))
        found.append(suggest(RATES, smooth(list(noisy))))
    assert max(found) / min(found) < 4


@pytest.mark.parametrize("curve", [np.full(121, 2.0), 2.0 + RATES, 2.0 + 0.3 * np.sin(np.arange(121))], ids=str)
def test_loss_that_does_not_fall_gives_no_suggestion(curve):
    with pytest.raises(ValueError, match=r"falls at none of the learning rates from 1e-05 to 10"):
        suggest(RATES, curve)


@pytest.fixture
def used(monkeypatch) -> list[list[float]]:
    """The rates of all groups at each step."""
    rates: list[list[float]] = []
    original = train_state.TrainState.step

    def watched(self, batch, step, *, factor=None):
        loss = original(self, batch, step, factor=factor)
        rates.append([group["lr"] for optimizer in self.optimizers for group in optimizer.param_groups])
        return loss

    monkeypatch.setattr(train_state.TrainState, "step", watched)
    return rates


def test_rate_grows_by_one_factor_over_six_decades_whatever_the_recipe_says(used):
    test = find_lr(tiny(optim={"lr": 0.5, "ema": 0.9}), steps=25)
    expected = 1e-3 * 10.0 ** np.linspace(-4, 2, 25)
    assert test.rates == pytest.approx(expected) and test.rest_lr is None
    assert np.array(used) == pytest.approx(np.stack([expected, expected], axis=1))
    assert len(test.losses) == len(test.smoothed) == 25 and not test.is_diverged
    assert test.smoothed == pytest.approx(smooth(list(test.losses)))
    assert test.lr == pytest.approx(suggest(np.array(test.rates), np.array(test.smoothed)))
    again = find_lr(tiny(optim={"lr": 0.001}), steps=25)
    assert again.losses == test.losses


def test_both_rates_of_muon_grow_by_the_same_factor_and_keep_the_ratio_of_the_recipe(used):
    test = find_lr(tiny(optim={"name": "muon", "lr": 0.1, "rest_lr": 0.001}), steps=25)
    for matrices, *rest in used:
        assert rest == pytest.approx([matrices / 100] * len(rest))
    assert used[0][0] == pytest.approx(0.02e-4) and used[-1][0] == pytest.approx(2.0)
    assert test.rest_lr == pytest.approx(test.lr / 100, rel=0.05)


@pytest.mark.parametrize("spoil", [math.nan, math.inf, 100.0])
def test_test_ends_where_the_loss_diverges(spoil, monkeypatch):
    original = train_state.TrainState.step

    def diverging(self, batch, step, *, factor=None):
        loss = original(self, batch, step, factor=factor)
        return torch.tensor(spoil) if step == 40 else loss / 2 if step > 20 else loss

    monkeypatch.setattr(train_state.TrainState, "step", diverging)
    test = find_lr(tiny(), steps=50)
    assert test.is_diverged and len(test.rates) == len(test.losses) == (41 if spoil == 100.0 else 40)


def test_module_of_the_user_stays_as_it_is():
    torch.manual_seed(0)
    module = nn.Sequential(nn.Flatten(), nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 10))
    before = {name: tensor.clone() for name, tensor in module.state_dict().items()}
    test = find_lr(tiny(), model=module, steps=30)
    assert test.losses[-1] != test.losses[0]
    assert all(torch.equal(tensor, before[name]) for name, tensor in module.state_dict().items())


def test_too_few_steps_are_refused():
    with pytest.raises(ValueError, match="steps is 19; a range test needs 20 or more"):
        find_lr(tiny(), steps=19)


def test_range_test_begins_like_the_training(tmp_path, monkeypatch):
    """Same data in the same order, same weights, same seed: the first loss is that of the training's first step."""
    test = find_lr(tiny(), steps=20)
    first = []
    original = train_state.TrainState.step

    def watched(self, batch, step):
        first.append(original(self, batch, step).item())
        raise KeyboardInterrupt

    monkeypatch.setattr(train_state.TrainState, "step", watched)
    with pytest.raises(KeyboardInterrupt):
        training.train(tiny(), tmp_path)
    assert first == [test.losses[0]]
