"""The study of permutations: what is shuffled, and the two exact statements."""

from dataclasses import replace

import pytest
import torch

from mixonomy.models import create, permuted, shuffle_patches
from mixonomy.recipe import changed
from mixonomy.rows import Origin, make_row
from mixonomy.rows import read as read_rows
from mixonomy.studies.permutation import PIPELINES, SHOTS, permutation, read, size_of
from mixonomy.studies.shuffled import Shuffled, global_shuffle, local_shuffle
from mixonomy.studies.study import run, write_results

WHERE = Origin("a CPU", "abc", "mixonomy study permutation", "2026-01-31")
SIZES = {"hidden_dim": 8, "num_blocks": 2, "tokens_mlp_dim": 4, "channels_mlp_dim": 16}


@pytest.fixture
def mixer():
    torch.manual_seed(0)
    model = create("mixer", num_classes=5, image_size=(8, 12), in_channels=3, patch_size=2, **SIZES).double()
    torch.nn.init.normal_(model.head.weight)
    return model


def test_the_local_shuffle_is_of_patches_and_of_the_pixels_in_them(mixer):
    shuffle, x = local_shuffle((8, 12), 2, seed=3), torch.randn(2, 3, 8, 12, dtype=torch.float64)
    assert shuffle.patches is not None and shuffle.pixels is not None
    shuffled = shuffle_patches(x, 2, patches=shuffle.patches, pixels=shuffle.pixels)
    assert torch.equal(Shuffled(mixer, shuffle)(x), mixer(shuffled)) and not torch.equal(shuffled, x)
    assert torch.equal(Shuffled(mixer, shuffle).features(x), mixer.features(shuffled))
    assert torch.equal(local_shuffle((8, 12), 2, seed=3).order, shuffle.order)
    assert not torch.equal(local_shuffle((8, 12), 2, seed=4).order, shuffle.order)


def test_the_global_shuffle_moves_every_pixel_anywhere_and_keeps_colours_together():
    order = global_shuffle((8, 12), seed=0).order
    assert torch.equal(order.sort().values, torch.arange(96))
    x = torch.arange(96.0).view(1, 1, 8, 12).expand(1, 3, 8, 12)
    seen = Shuffled(torch.nn.Conv2d(3, 1, 1), global_shuffle((8, 12), seed=0))._seen(x)
    assert torch.equal(seen[0, 0].flatten(), order.float()) and torch.equal(seen[0, 0], seen[0, 2])


def test_a_converted_mixer_behind_the_local_shuffle_is_the_plain_mixer(mixer):
    shuffle, x = local_shuffle((8, 12), 2, seed=3), torch.randn(4, 3, 8, 12, dtype=torch.float64)
    converted = Shuffled(permuted(mixer, patches=shuffle.patches, pixels=shuffle.pixels), shuffle)
    torch.testing.assert_close(converted(x), mixer(x), rtol=0, atol=1e-10)
    assert (Shuffled(mixer, shuffle)(x) - mixer(x)).abs().max() > 1e-3


@pytest.fixture(scope="module")
def studied(tmp_path_factory):
    """A tiny study of a Mixer alone, with two seeds: (study, folder, rows)."""
    size, out = size_of("digits", None, is_quick=True), tmp_path_factory.mktemp("study")
    mixer = changed(size.base, model={**size.models["Mixer"].model_dump(), **SIZES}).model
    base = changed(size.base, duration="12 steps", eval_every="6 steps", precision="fp32")
    tiny = permutation(replace(size, base=base, models={"Mixer": mixer}, exact_steps=20), (0, 1), ("Mixer",))
    return tiny, out, run(tiny, out)


@pytest.mark.slow
def test_both_exact_statements_hold(studied):
    facts = read(studied[2]).facts
    assert facts["conversion_max_difference"] <= 1e-10
    assert facts["converted_curve_max_difference"] <= 1e-6, "losses are float32"
    assert facts["same_seed_curve_max_difference"] > 1e-4


@pytest.mark.slow
def test_there_is_one_curve_per_pipeline(studied):
    facts = read(studied[2]).facts
    assert [curve["pipeline"] for curve in facts["curves"]] == list(PIPELINES)
    for curve in facts["curves"]:
        assert len(curve["epochs"]) == len(curve["val_top1"]) == len(curve[f"few_shot_{SHOTS}"]) == 2
        assert 0 <= curve["top1"] <= 1
    assert len({tuple(curve["val_top1"]) for curve in facts["curves"]}) > 1


@pytest.mark.slow
def test_rows_give_the_same_page_byte_for_byte(studied, tmp_path):
    study, out, rows = studied
    write_results(study, tmp_path, read_rows(out / "rows.jsonl"))
    assert (tmp_path / "permutation.html").read_bytes() == (out / "permutation.html").read_bytes()
    assert (tmp_path / "rows.jsonl").read_bytes() == (out / "rows.jsonl").read_bytes()
    assert read_rows(out / "rows.jsonl") == rows


def test_an_unknown_model_is_refused_and_no_rows_say_nothing():
    with pytest.raises(ValueError, match="unknown model 'resnet'; use Mixer, ResNet, ViT, ConvMixer"):
        permutation(size_of("digits", None, is_quick=True), (0,), ("resnet",))
    assert read([]).tables == ()


def test_it_is_said_whether_the_mixer_loses_less():
    tops = {"Mixer": (0.50, 0.50, 0.40), "ResNet": (0.70, 0.50, 0.40), "ViT": (0.50, 0.50, 0.41)}
    rows = [
        make_row(WHERE, study="permutation", model=model, data=f"d, {pipeline}", metric="top1", value=value + noise,
                 unit="share", seed=seed)
        for model, values in tops.items()
        for pipeline, value in zip(PIPELINES, values, strict=True)
        for seed, noise in enumerate((0.0, 0.001, 0.002) if pipeline == "original" else (0.001, 0.0, 0.002))
    ]  # fmt: skip
    said = read(rows).summary
    for pipeline in ("local", "global"):
        start = f"By the {pipeline} shuffle the Mixer loses, beside ResNet, less by test top-1, +20.00 ["
        assert any(text.startswith(start) for text in said)
    assert any("beside ViT, not clearly less or more (equal within 1 point) by test top-1" in text for text in said)
    few = [{**row, "metric": "few_shot"} for row in rows]
    (both,) = [text for text in read([*rows, *few]).summary if "local shuffle the Mixer loses, beside ResNet" in text]
    assert "; less by 5-shot top-1, +20.00 [" in both
    assert any(text.startswith("ResNet, local shuffle: 50.10 ± 0.10 % against 70.10") for text in said)


def test_sources_are_not_mixed():
    rows = [
        make_row(WHERE, study="permutation", model="ViT", data=f"{source}, {pipeline}", metric="top1", value=value,
                 unit="share", seed=0)
        for source, values in (("d", (0.50, 0.40, 0.30)), ("e", (0.80, 0.70, 0.20)))
        for pipeline, value in zip(PIPELINES, values, strict=True)
    ]  # fmt: skip
    found = read(rows)
    assert [text.split(" %")[0] for text in found.sentences() if "global" in text] == [
        "d: ViT, global shuffle: 30.00", "e: ViT, global shuffle: 20.00"
    ]  # fmt: skip
    assert set(found.facts["by_source"]) == {"d", "e"}


def test_a_loss_is_said_as_a_share_by_top_1_and_by_few_shot_over_the_seeds_that_both_have():
    values = {
        ("top1", "original"): (0.50, 0.60, 0.90), ("top1", "global"): (0.25, 0.30),
        ("few_shot", "original"): (0.20, 0.20, 0.90), ("few_shot", "global"): (0.12, 0.10),
    }  # fmt: skip
    rows = [
        make_row(WHERE, study="permutation", model="ViT", data=f"d, {pipeline}", metric=metric, value=value,
                 unit="share", seed=seed)
        for (metric, pipeline), scores in values.items()
        for seed, value in enumerate(scores)
    ]  # fmt: skip
    (said,) = [text for text in read(rows).summary if text.startswith("ViT, global shuffle")]
    assert "27.50 ± 3.54 % against 55.00 ± 7.07 % test top-1, -27.50 [" in said and "-50 [-50, -50] % of it" in said
    assert "11.00 ± 1.41 % against 20.00 ± 0.00 % 5-shot top-1, -9.00 [" in said
    assert said.endswith("-45 [-109, +19] % of it (n = 2).")
