"""Comparing training steps: what agrees is timed, what does not is named and not timed."""

import pytest
import torch

from mixonomy.bench import step, train

SIZES = {"patch_size": 4, "hidden_dim": 32, "num_blocks": 2, "tokens_mlp_dim": 16, "channels_mlp_dim": 64}
TINY = train.Case({"name": "mixer", "gelu": "erf", **SIZES}, (16, 16), 8, num_classes=10, turn_s=0.0, gemm_size=64)


@pytest.mark.slow
def test_settings_are_checked_and_timed_and_ours_is_the_step_of_the_training_loop():
    names = ["timm fp32", "lucidrains fp32", "ours", *train.LESS_MEMORY]
    found = train.compare(TINY, names, precision="fp32", in_process=True)
    tokens = 16
    block = 2 * tokens * 32 * (16 + 64)
    macs = tokens * 3 * 16 * 32 + 2 * block + 32 * 10
    assert found.flops == 3 * 2 * 8 * macs
    ours = found.numbers("ours")
    assert ours["images_per_s"] > 0 and ours["precision"] == "fp32" and ours["difference"] < 1e-4
    assert found.numbers("timm fp32")["ratio_default"] == 1.0
    for name in train.LESS_MEMORY:
        assert found.numbers(name)["images_per_s"] > 0 and found.numbers(name)["difference"] < 1e-4


def test_ways_to_save_memory_reach_the_step(monkeypatch):
    seen = []
    monkeypatch.setattr(step, "TrainState", lambda recipe, *_, **__: seen.append(recipe.optim))
    for setting in train.LESS_MEMORY.values():
        step.training_step(TINY, setting, torch.device("cpu"), step.build(TINY))
    assert [(optim.accumulate, optim.checkpoint_blocks) for optim in seen] == [(4, False), (1, True)]


def test_compiling_reaches_the_step(monkeypatch):
    seen = []
    monkeypatch.setattr(step, "TrainState", lambda recipe, *_, **__: seen.append(recipe.compile))
    for setting in (train.SETTINGS["ours"], *train.COMPILED.values()):
        step.training_step(TINY, setting, torch.device("cpu"), step.build(TINY))
    assert seen == [False, True]


@pytest.mark.slow
def test_a_peer_that_computes_something_else_is_named_and_not_timed(monkeypatch):
    from timm.models.mlp_mixer import MixerBlock

    right = MixerBlock.forward
    monkeypatch.setattr(MixerBlock, "forward", lambda self, x: 1.01 * right(self, x))
    found = train.compare(TINY, ["timm fp32", "ours"], precision="fp32", in_process=True)
    wrong = found.numbers("timm fp32")
    assert wrong["images_per_s"] is None and wrong["note"].startswith("wrong: the ")
    assert found.numbers("ours")["ratio_default"] is None


@pytest.mark.slow
def test_nothing_is_timed_where_ours_is_wrong(monkeypatch):
    from mixonomy.train_state import TrainState

    right = TrainState.step
    monkeypatch.setattr(TrainState, "step", lambda self, batch, step: 1.1 * right(self, batch, step))
    with pytest.raises(ValueError, match="nothing was timed, since ours failed: wrong: the loss differs"):
        train.compare(TINY, ["timm fp32", "ours"], precision="fp32", in_process=True)


def test_compiled_bf16_is_not_tried_where_it_is_emulated(monkeypatch):
    monkeypatch.setattr(train.devices, "resolve_precision", lambda name, device: "fp32" if name == "auto" else name)
    with pytest.raises(ValueError, match="no units for bfloat16"):
        train.measure(TINY, train.SETTINGS["timm compiled bf16"], torch.device("cpu"), 1.0)
