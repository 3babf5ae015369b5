"""Ablations: one thing is changed at a time, and what is said follows from the rows."""

import pytest

from mixonomy.models.isotropic import Options
from mixonomy.recipe import changed
from mixonomy.rows import Origin, make_row
from mixonomy.studies.ablate import BASE, FACTORS, ablate, base_recipe, read
from mixonomy.studies.study import run, values_of

WHERE = Origin("a CPU", "abc", "mixonomy study ablate", "2026-01-31")
RECIPE = base_recipe("digits", is_quick=True)
TINY = changed(
    RECIPE,
    model={"hidden_dim": 8, "num_blocks": 2, "tokens_mlp_dim": 4, "channels_mlp_dim": 16},
    duration="2 steps",
)


def test_every_factor_changes_one_thing():
    planned = ablate(RECIPE, (0,)).planned
    assert len(planned) == len(FACTORS) + 1 >= 9 and planned[0].model == BASE
    for one, factor in zip(planned[1:], FACTORS, strict=True):
        assert (one.recipe != RECIPE) != (one.build is not None), factor.name
        changes = [key for key, value in one.recipe.model_dump().items() if value != RECIPE.model_dump()[key]]
        assert changes == list(factor.changes), factor.name
    with pytest.raises(ValueError, match="no factor has 'SMA' in its name; use token MLP per channel"):
        ablate(RECIPE, (0,), ("SMA",))


@pytest.mark.slow
def test_a_variant_is_the_same_model_but_for_the_variant(tmp_path):
    rows = run(ablate(TINY, (0,), ("SAM", "per channel")), tmp_path)
    assert list(dict.fromkeys(row["model"] for row in rows)) == [BASE, "token MLP per channel", "SAM 0.05"]
    params = [values_of(rows, "params", model=name).by_seed[0] for name in (BASE, "token MLP per channel", "SAM 0.05")]
    per_mlp = 2 * 16 * 4 + 4 + 16
    assert params == [params[0], params[0] + 2 * 7 * per_mlp, params[0]]
    macs = [values_of(rows, "macs", model=name).by_seed[0] for name in (BASE, "token MLP per channel")]
    assert macs[0] == macs[1], "as many multiplications, of other weights"


def test_what_is_said_follows_from_the_rows():
    scores = {
        BASE: (0.70, 0.71, 0.69),
        "token MLP per channel": (0.701, 0.711, 0.691),
        "no skips": (0.50, 0.52, 0.48),
        "Muon": (0.75, 0.76, 0.745),
    }
    rows = [
        make_row(WHERE, study="ablate", model=m, data="d", metric="top1", value=v, unit="share", seed=seed)
        for m, values in scores.items()
        for seed, v in enumerate(values)
    ]
    for name, count, kept in ((BASE, 100, 8.0), ("token MLP per channel", 700, 10.0)):
        for metric, value in (("params", count), ("activation_bytes", kept)):
            rows.append(
                make_row(WHERE, study="ablate", model=name, data="d", metric=metric, value=value, unit="", seed=0)
            )
    failed = {"metric": "top1", "value": None, "unit": "share", "n": 0, "note": "the loss became nan at step 3"}
    rows.append(make_row(WHERE, study="ablate", model="no LayerNorm", data="d", seed=0, **failed))
    found = read(rows)
    lines = {line[0]: line for line in found.tables[0].lines}
    assert lines[BASE][1] == "70.00 ± 1.00" and lines["no LayerNorm"][1:4] == ("failed", "–", "no pair")
    assert lines["token MLP per channel"][2:4] == ("+0.10 [+0.10, +0.10]", "equal within 1 point")
    assert lines["no skips"][3] == "worse" and lines["Muon"][3] == "better"
    assert found.facts["differences"]["no skips"] == pytest.approx(-0.2)
    assert any(said.startswith("Worse: no skips (-20.00") for said in found.summary)
    assert found.summary[-1].startswith(
        "A token MLP for each channel has 7.0 times the parameters and keeps 1.25 times"
    )
    assert found.tables[1].lines == (("no LayerNorm", "d", "0", "the loss became nan at step 3"),)
    assert "no LayerNorm" not in found.figures[0].svg, "there is no difference to draw"
    assert found == read(rows) and read([]).tables == ()


def test_of_one_seed_no_interval_is_drawn():
    rows = [
        make_row(WHERE, study="ablate", model=m, data="d", metric="top1", value=v, unit="share", seed=0)
        for m, v in ((BASE, 0.7), ("Muon", 0.8))
    ]
    (figure,) = read(rows).figures
    assert "<title>Muon: +10.00</title></circle>" in figure.svg and "[" not in figure.svg
    assert "90 % interval must lie within it" in figure.caption


def test_rows_say_how_many_images_are_trained_on_and_how_long():
    assert {each.data for each in ablate(RECIPE, (0,)).planned} == {"digits, 12 epochs"}
    few = base_recipe("cifar10", is_quick=False, epochs=3, train_images=5000)
    assert {each.data for each in ablate(few, (0,)).planned} == {"cifar10, 5,000 images, 3 epochs"}


def test_sources_are_not_mixed():
    rows = [
        make_row(WHERE, study="ablate", model=m, data=data, metric="top1", value=v, unit="share", seed=0)
        for data, scores in (("d, 12 epochs", (0.7, 0.8)), ("e", (0.5, 0.4)))
        for m, v in zip((BASE, "Muon"), scores, strict=True)
    ]
    found = read(rows)
    assert [line[1:3] for table in found.tables for line in table.lines if line[0] == "Muon"] == [
        ("80.00", "+10.00"), ("40.00", "-10.00")
    ]  # fmt: skip
    assert [table.title.split(":")[0] for table in found.tables] == ["d, 12 epochs", "e"]
    assert [figure.name for figure in found.figures] == ["ablate-d-12-epochs", "ablate-e"]
    assert [topic for topic, _ in found.by_topic()] == ["d, 12 epochs", "e"]
    assert all(text.startswith(("d, 12 epochs: ", "e: ")) for text in found.sentences())
    assert found.facts["by_source"]["e"]["differences"]["Muon"] == pytest.approx(-0.1)


def test_the_base_must_have_its_sizes():
    with pytest.raises(ValueError, match="patch_size is not given"):
        ablate(changed(RECIPE, model={"name": "mixer-s/16"}), (0,), ("per channel",))
    assert Options((8, 8), 10).gelu == RECIPE.model.gelu, "variants have the base's GELU"
