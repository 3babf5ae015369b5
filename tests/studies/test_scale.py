"""Size against data: equal steps, fitted curves, and what is said of them."""

import pytest

from mixonomy.recipe import changed
from mixonomy.studies.scale import base_recipe, power_law, read, scale, sizes_of
from mixonomy.studies.study import run, values_of

BASE = base_recipe("digits", is_quick=True)
SIZES = sizes_of("digits", is_quick=True)


def test_a_power_law_is_found_again():
    images = (100.0, 1_000.0, 10_000.0)
    a, b = power_law(images, [3.0 * n**-0.4 for n in images])
    assert (a, b) == pytest.approx((3.0, 0.4))


def test_every_training_has_as_many_steps_on_its_share_of_the_images(tmp_path):
    planned = [each for each in scale(BASE, SIZES, 1438, tmp_path, (0, 1)).planned if each.recipe.init is None]
    assert {each.recipe.duration for each in planned} == {"100 steps"} and len(planned) == 2 * 3 * 4
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
    tuned = [row for row in rows if row["model"] == "Mixer small, fine-tuned at 16 pixels" and row["metric"] == "top1"]
    assert len(tuned) == 1 and tuned[0]["value"] is not None
    by_tokens = {row["at"]: row["value"] for row in rows if row["metric"] == "macs by tokens"}
    assert list(by_tokens) == [16, 64, 144, 256]
    assert by_tokens[256] / by_tokens[16] == pytest.approx(16, rel=0.01)
    assert read([]).tables == ()
