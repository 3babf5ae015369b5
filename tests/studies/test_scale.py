"""Size against data: equal steps, fitted curves, and what is said of them."""

from dataclasses import replace

import numpy as np
import pytest

from mixonomy.data import open_source, plan_splits
from mixonomy.recipe import changed
from mixonomy.rows import Origin, make_row
from mixonomy.studies.scale import base_recipe, power_law, read, scale, sizes_of
from mixonomy.studies.study import run, values_of

WHERE = Origin("a CPU", "abc", "mixonomy study scale", "2026-01-31")
BASE = base_recipe("digits", is_quick=True)
SIZES = sizes_of("digits", is_quick=True)


def test_a_power_law_is_found_again():
    images = (100.0, 1_000.0, 10_000.0)
    a, b = power_law(images, [3.0 * n**-0.4 for n in images])
    assert (a, b) == pytest.approx((3.0, 0.4))


def test_every_training_has_as_many_steps_on_its_share_of_the_images():
    planned = [each for each in scale(BASE, SIZES, 1438, (0, 1)).planned if "pixels" not in each.model]
    assert {each.recipe.duration for each in planned} == {"200 steps"} and len(planned) == 2 * 3 * 4
    assert [each.recipe.data.train_images for each in planned[:4]] == [43, 144, 431, 1438]
    assert {each.recipe.keep for each in planned} == {"best"}, "the best validation score counts"
    with pytest.raises(ValueError, match="a fraction is 0 %"):
        scale(BASE, SIZES, 1438, (0,), (0, 10))


def test_a_tenth_of_every_share_is_held_out_where_the_source_has_val_of_its_own():
    digits = open_source("digits")
    train = digits.splits["train"]
    indices = np.arange(len(train))
    halves = {"train": train.pick(indices[: len(train) // 2]), "val": train.pick(indices[len(train) // 2 :])}
    own_val = replace(digits, splits={**digits.splits, **halves})
    planned = scale(BASE, SIZES, len(train), (0,)).planned
    held = {}
    for each in planned:
        options = each.recipe.data
        plan = plan_splits(own_val, options.val_share, train_images=options.train_images)
        held[options.train_images] = (len(plan.train), len(plan.val))
        assert len(plan.train) + len(plan.val) == options.train_images
    assert all(val == pytest.approx(0.1 * (train + val), abs=6) for train, val in held.values()), held


@pytest.mark.slow
def test_a_tiny_study_shows_train_against_test_and_a_linear_cost(tmp_path):
    base = changed(BASE, duration="4 steps", eval_every="2 steps")
    study = scale(base, {"small": SIZES["tiny"]}, 1438, (0,), (10, 30, 100))
    rows = run(study, tmp_path)
    found = read(rows)
    lines = {line[2]: line for line in found.tables[0].lines}
    assert [line[1] for line in lines.values()] == ["129", "388", "1,295"]
    where = {"model": "Mixer small", "data": "digits, 4 steps, 30 %"}
    assert lines["30 %"][4] == f"{100 * values_of(rows, 'train_top1', **where).mean:.2f}"
    assert set(found.facts["fits"]) == {"Mixer small"}
    names = [f"Mixer small, {how} pixels" for how in ("trained at 4", "fine-tuned at 4", "fine-tuned at 8")]
    assert [line[0] for line in found.tables[1].lines] == names
    params = [values_of(rows, "params", model=name).mean for name in ("Mixer small", *names)]
    assert params[1] == params[2] < params[3], "four times the tokens, and D_S with them"
    assert any("fine-tuned at 8 pixels less fine-tuned at 4 pixels, from the same weights" in s for s in found.summary)
    by_tokens = {row["at"]: row["value"] for row in rows if row["metric"] == "macs by tokens"}
    assert list(by_tokens) == [16, 64, 144, 256]
    assert by_tokens[256] / by_tokens[16] == pytest.approx(16, rel=0.01)
    assert read([]).tables == ()


def scored(exponents, *, data="d", model="Mixer tiny"):
    """Rows whose test error is a power law of the images with one exponent for each seed."""
    rows = []
    for share, images in ((3, 100.0), (30, 1_000.0), (100, 10_000.0)):
        for seed, exponent in enumerate(exponents):
            about = {"study": "scale", "model": model, "data": f"{data}, {share} %", "unit": "", "seed": seed}
            rows.append(make_row(WHERE, metric="top1", value=1 - 0.5 * (images / 100) ** exponent, **about))
            rows.append(make_row(WHERE, metric="train_images", value=images, **about))
    return rows


def test_a_fit_has_its_interval_over_seeds_and_is_worded_by_its_sign():
    def said(*exponents):
        return next(text for text in read(scored(exponents)).summary if "images^" in text)

    assert said(-0.3, -0.32, -0.28) == (
        "Mixer tiny: test error falls with the images, as images^-0.30, fitted seed by seed (95 % interval of the "
        "exponent [-0.35, -0.25], n = 3)."
    )
    assert "neither clearly falls nor rises with the images, as images^0.01" in said(0.02, -0.02, 0.03)
    assert said(-0.3) == "Mixer tiny: test error goes as images^-0.30, fitted to one seed."


def test_sources_are_not_mixed():
    found = read([*scored((-0.3,)), *scored((0.1,), data="e, of two words")])
    assert [text for text in found.sentences() if "images^" in text] == [
        "d: Mixer tiny: test error goes as images^-0.30, fitted to one seed.",
        "e, of two words: Mixer tiny: test error goes as images^0.10, fitted to one seed.",
    ]
    assert len(found.tables[0].lines) == len(found.tables[1].lines) == 3


def test_a_cost_is_called_linear_within_the_stated_bound_only():
    def said(*macs):
        rows = scored((-0.3,))
        for tokens, value in zip((10, 20), macs, strict=True):
            about = {"study": "scale", "model": "Mixer tiny", "data": "d, 100 %", "seed": 0, "unit": ""}
            rows.append(make_row(WHERE, metric="macs by tokens", value=value, at=tokens, **about))
        return next(text for text in read(rows).summary if "With D_S fixed" in text)

    assert "is linear in its tokens to 5 %: MACs of a token differ by 1.00 % at most" in said(100.0, 202.0)
    assert "is not linear in their tokens: MACs of a token differ by 100.00 %" in said(100.0, 400.0)


def test_one_share_is_spoken_of_once():
    rows = [
        make_row(WHERE, study="scale", model=m, data="d, 10 %", metric="top1", value=0.5, unit="share", seed=0)
        for m in ("Mixer tiny", "Mixer base")
    ]
    assert len([text for text in read(rows).summary if "Mixer base less Mixer tiny with 10 %" in text]) == 1


def test_it_is_said_whether_larger_models_overfit_few_images_more_and_gain_more_from_data():
    def scores(model, share, test, train):
        for seed, noise in enumerate((0.0, 0.001, 0.002)):
            about = {
                "study": "scale",
                "model": f"Mixer {model}",
                "data": f"d, {share} %",
                "unit": "share",
                "seed": seed,
            }
            yield make_row(WHERE, metric="top1", value=test + noise, **about)
            yield make_row(WHERE, metric="train_top1", value=train + 2 * noise, **about)

    small = [*scores("tiny", 3, 0.30, 0.35), *scores("tiny", 100, 0.40, 0.42)]
    large = [*scores("base", 3, 0.30, 0.60), *scores("base", 100, 0.60, 0.65)]
    said = " ".join(read([*small, *large]).summary)
    assert "train accuracy of Mixer base is farther above its test accuracy than that of Mixer tiny: +25.00 [" in said
    assert "From 3 to 100 % of the images Mixer base gains more than Mixer tiny: +20.00 [" in said
    said = " ".join(read([*small, *scores("base", 3, 0.30, 0.351), *scores("base", 100, 0.40, 0.42)]).summary)
    assert "not clearly farther above its test accuracy" in said and "gains not clearly more or less than" in said
