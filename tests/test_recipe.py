"""Recipes: typed, frozen, strict about their keys, and without fields that nothing reads."""

import json

import pytest

from mixonomy.recipe import Augment, Data, Model, Optim, Recipe, changed, differences
from mixonomy.recipes import choose_recipe, load_recipe
from mixonomy.recipes.folder import recipe_for

FULL = Recipe(
    name="full",
    data=Data(source="cifar10", val_share=0.2, eval_crop="resize", eval_resize=1.25),
    model=Model(name="mixer-s/16", num_blocks=3, gelu="erf", init="timm", dropout=0.1, drop_path=0.2, head_bias=-2.3),
    image_size=(32, 48),
    augment=Augment(crop="pad", pad=3, flip=True, randaugment_layers=2, randaugment_magnitude=5, mixup=0.5),
    optim=Optim(name="muon", lr=0.02, rest_lr=0.001, momentum=0.9, beta2=0.95, schedule="cosine", end=0.1, clip=1.0),
    duration="14 epochs",
    batch_size=128,
    loss="sigmoid",
    label_smoothing=0.1,
)


@pytest.mark.parametrize(
    ("section", "values"),
    [
        (Recipe, {"batchsize": 1}),
        (Recipe, {"optim": {"learning_rate": 0.1}}),
        (Recipe, {"optim": {"lr": 0.1, "Lr": 0.1}}),
        (Data, {"sources": "x"}),
        (Model, {"depth": 3}),
        (Augment, {"cutmix": 1.0}),
    ],
)
def test_unknown_key_is_an_error(section, values):
    with pytest.raises(ValueError, match="Extra inputs are not permitted"):
        section.model_validate(values)


@pytest.mark.parametrize("recipe", [Recipe(), FULL], ids=["default", "full"])
def test_recipe_survives_json_unchanged(recipe):
    again = Recipe.model_validate_json(recipe.model_dump_json())
    assert again == recipe
    assert Recipe.model_validate(json.loads(json.dumps(recipe.model_dump(mode="json")))) == recipe
    assert differences(again.model_dump(), recipe.model_dump()) == []


def test_recipe_is_frozen():
    with pytest.raises(ValueError, match="frozen"):
        FULL.batch_size = 3
    with pytest.raises(ValueError, match="frozen"):
        FULL.optim.lr = 3


@pytest.mark.parametrize(
    ("section", "values", "words"),
    [
        (Augment, {"pad": 4}, "pad has no effect with crop=none; it belongs to pad"),
        (Augment, {"crop": "inception", "pad": 4}, "pad has no effect with crop=inception"),
        (Augment, {"crop": "pad", "min_area": 0.1}, "min_area has no effect with crop=pad; it belongs to inception"),
        (Augment, {"randaugment_magnitude": 10}, "has no effect without randaugment_layers"),
        (Augment, {"mixup": 0.2, "cutmix_prob": 0.5}, "choose one of them"),
        (Optim, {"name": "adamw", "momentum": 0.9}, "momentum has no effect with name=adamw; .* sgd and muon"),
        (Optim, {"name": "adamw", "rest_lr": 0.1}, "rest_lr has no effect"),
        (Optim, {"name": "sgd", "beta1": 0.9}, "beta1 has no effect with name=sgd"),
        (Optim, {"name": "sgd", "beta2": 0.9}, "beta2 has no effect with name=sgd"),
        (Optim, {"schedule": "constant", "end": 0.1}, "end has no effect with schedule=constant"),
        (Model, {"name": "vit-b/16", "tokens_mlp_dim": 9}, "tokens_mlp_dim has no effect with name=vit-b/16; .* mixer"),
        (Model, {"name": "mixer-b/16", "pool": "mean"}, "pool has no effect with name=mixer-b/16; it belongs to vit"),
        (Model, {"name": "timm:resnet18", "num_heads": 2}, "num_heads has no effect with name=timm:resnet18"),
        (Data, {"eval_crop": "squash", "eval_resize": 1.3}, "eval_resize has no effect with eval_crop=squash"),
    ],
)
def test_field_that_nothing_reads_is_refused(section, values, words):
    with pytest.raises(ValueError, match=words):
        section.model_validate(values)


def test_sizes_of_a_model_are_those_that_its_family_reads():
    from mixonomy.models import FAMILIES

    for field, readers in Model.READ_BY.items():
        reading = [name for name, family in FAMILIES.items() if field in family.size.__dataclass_fields__]
        assert reading == sorted(readers or FAMILIES, key=list(FAMILIES).index), field
    sizes = {field for family in FAMILIES.values() for field in family.size.__dataclass_fields__}
    assert sizes == set(Model.READ_BY)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf"), 0.0, -1e-3])
def test_learning_rate_is_a_positive_number(value):
    for field in ("lr", "rest_lr"):
        with pytest.raises(ValueError, match=field):
            Optim.model_validate({"name": "muon", field: value})


@pytest.mark.parametrize(
    ("section", "field"),
    [(Optim, "weight_decay"), (Optim, "clip"), (Optim, "ema"), (Augment, "mixup"), (Model, "head_bias"),
     (Data, "eval_resize"), (Recipe, "label_smoothing")],
)  # fmt: skip
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_every_number_is_finite(section, field, value):
    with pytest.raises(ValueError, match=field):
        section.model_validate({field: value})


@pytest.mark.parametrize(
    ("section", "values"),
    [
        (Optim, {"ema": 1.0}),
        (Optim, {"beta1": 1.0}),
        (Optim, {"end": 1.0}),
        (Optim, {"layer_decay": 0.0}),
        (Optim, {"layer_decay": 1.0}),
        (Optim, {"layer_decay": float("nan")}),
        (Optim, {"sam_rho": 0.0}),
        (Optim, {"sam_rho": float("inf")}),
        (Optim, {"accumulate": 0}),
        (Optim, {"name": "lion"}),
        (Optim, {"warmup": "soon"}),
        (Data, {"val_share": 1.0}),
        (Data, {"eval_crop": "five"}),
        (Data, {"eval_resize": 0.5}),
        (Model, {"patch_size": 0}),
        (Model, {"drop_path": 1.0}),
        (Augment, {"cutmix_prob": 1.1}),
        (Augment, {"erase_prob": -0.1}),
        (Augment, {"randaugment_layers": 1, "randaugment_magnitude": 31}),
        (Augment, {"crop": "inception", "min_area": 1.5}),
        (Recipe, {"batch_size": 0}),
        (Recipe, {"batch_size": 2.5}),
        (Recipe, {"image_size": 0}),
        (Recipe, {"image_size": [32, 32, 3]}),
        (Recipe, {"duration": "0 epochs"}),
        (Recipe, {"duration": "10 %"}),
        (Recipe, {"eval_every": "0 steps"}),
        (Recipe, {"seed": -1}),
        (Recipe, {"name": "../elsewhere"}),
        (Recipe, {"name": ""}),
        (Recipe, {"precision": "fp16"}),
    ],
)
def test_value_outside_its_range_is_refused(section, values):
    with pytest.raises(ValueError, match=list(values)[-1]):
        section.model_validate(values)


def test_batch_that_does_not_divide_into_equal_pieces_is_refused():
    with pytest.raises(ValueError, match="batch_size 10 does not divide into 3 equal pieces"):
        Recipe(batch_size=10, optim=Optim(accumulate=3))


def test_checkpointed_blocks_below_a_head_that_is_trained_alone_are_refused():
    with pytest.raises(ValueError, match="checkpoint_blocks has no effect with tune=head"):
        Recipe(tune="head", optim=Optim(checkpoint_blocks=True))


def test_image_size_is_height_and_width():
    assert Recipe(image_size=32).height_width == (32, 32)
    assert FULL.height_width == (32, 48)


def test_change_keeps_the_rest_and_leaves_the_old_recipe_alone():
    new = changed(FULL, batch_size=64, optim={"lr": 0.5})
    assert (new.batch_size, new.optim.lr, new.optim.rest_lr) == (64, 0.5, 0.001)
    assert (FULL.batch_size, FULL.optim.lr) == (128, 0.02)
    assert changed(new, batch_size=128, optim={"lr": 0.02}) == FULL
    assert changed(FULL) == FULL


def test_change_is_validated():
    for changes in (
        {"batch_sise": 3},
        {"optim": {"lr": -1.0}},
        {"optim": {"rate": 1.0}},
        {"augment": {"min_area": 0.5}},
    ):
        with pytest.raises(ValueError, match="validation error"):
            changed(FULL, **changes)


def test_another_choice_drops_what_belonged_to_the_old_one():
    new = changed(FULL, optim={"name": "sgd", "lr": 0.1}, augment={"crop": "inception"}, model={"name": "mixer-b/16"})
    assert (new.optim.rest_lr, new.optim.beta2, new.optim.momentum) == (None, None, 0.9)
    assert new.augment.pad is None and new.augment.flip
    assert new.model.num_blocks is None and new.model.gelu == "erf"
    timm = changed(FULL, model={"name": "timm:resnet18", "stem": "small"})
    assert (timm.model.gelu, timm.model.init, timm.model.stem) == (None, None, "small")
    assert changed(timm, model={"name": "mixer-b/16"}).model.stem is None
    kept = changed(FULL, augment={"crop": "pad"}, model={"name": "mixer-b/16", "num_blocks": 2})
    assert kept.augment.pad == 3 and kept.model.num_blocks == 2


def test_mixup_takes_the_place_of_cutmix_and_cutmix_that_of_mixup():
    cut = changed(Recipe(), augment={"cutmix_prob": 0.5})
    mixed = changed(cut, augment={"mixup": "0.2"})
    assert (mixed.augment.mixup, mixed.augment.cutmix_prob) == (0.2, 0.0)
    assert changed(mixed, augment={"cutmix_prob": 0.5}).augment == cut.augment
    assert changed(cut, augment={"mixup": 0.0}).augment == cut.augment
    with pytest.raises(ValueError, match="mixup and cutmix_prob are both on"):
        changed(cut, augment={"mixup": 0.2, "cutmix_prob": 0.5})


def test_differences_name_the_fields():
    new = changed(FULL, batch_size=64, optim={"lr": 0.5})
    assert differences(FULL.model_dump(), new.model_dump()) == [
        "batch_size (128 there, 64 now)",
        "optim.lr (0.02 there, 0.5 now)",
    ]
    assert differences({"a": 1}, {"b": {"c": 2}}) == ["a (1 there, None now)", "b (None there, {'c': 2} now)"]
    assert differences(FULL.model_dump(), FULL.model_dump()) == []


@pytest.mark.parametrize(("count", "epochs"), [(10, 200), (2000, 200), (4000, 100), (40_000, 10), (10**6, 10)])
def test_any_data_is_seen_more_often_the_less_there_is(count, epochs):
    assert recipe_for(count).duration == f"{epochs} epochs"
    assert (recipe_for(count).augment.cutmix_prob > 0) == (epochs > 10)


def test_recipe_for_any_data_counts_the_training_images(tmp_path):
    for i in range(40):
        file = tmp_path / "ab"[i % 2] / f"{i}.png"
        file.parent.mkdir(exist_ok=True)
        file.write_bytes(b"not looked at")
    assert choose_recipe(None, str(tmp_path)) == recipe_for(40)
    assert choose_recipe(None, str(tmp_path / "nothing")) == load_recipe("folder")
    assert choose_recipe(None, "cifar10") == load_recipe("cifar10")
    assert choose_recipe("digits", str(tmp_path)) == load_recipe("digits")
