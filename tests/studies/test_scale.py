"""Size against data: equal steps, fitted curves, and what is said of them."""

import pytest

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


def test_every_training_has_as_many_steps_on_its_share_of_the_images(tmp_path):
    planned = [each for each in scale(BASE, SIZES, 1438, tmp_path, (0, 1)).planned if "pixels" not in each.model]
    assert {each.recipe.duration for each in planned} == {"200 steps"} and len(planned) == 2 * 3 * 4
    assert [each.recipe.data.train_images for each in planned[:4]] == [43, 144, 431, None]
    assert {each.recipe.keep for each in planned} == {"best"}, "the best validation score counts"
    with pytest.raises(ValueError, match="a fraction is 0 %"):
        scale(BASE, SIZES, 1438, tmp_path, (0,), (0, 10))


@pytest.mark.slow
def test_a_tiny_study_shows_train_against_test_and_a_linear_cost(tmp_path):
    base = changed(BASE, duration="4 steps", eval_every="2 steps")
    study = scale(base, {"small": SIZES["tiny"]}, 1438, tmp_path, (0,), (10, 30, 100))
    rows = run(study, tmp_path)
    found = read(rows)
    lines = {line[2]: line for line in found.tables[0].lines}
    assert [line[1] for line in lines.values()] == ["129", "388", "1,295"]
    where = {"model": "Mixer small", "data": "digits, 30 %"}
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
