"""Training on data that is not as one would wish: unreadable images, several labels, classes of unequal size."""

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from mixonomy import train_state
from mixonomy.api import evaluate, load
from mixonomy.data import open_source
from mixonomy.experiment import Runtime, set_up
from mixonomy.models import info_of
from mixonomy.recipe import Recipe, changed
from mixonomy.runs import RunFolder
from mixonomy.training import train
from training_runs import assert_same_weights, jpeg, killed_at, tiny


@pytest.fixture
def with_bad(tmp_path) -> Path:
    """The prefix of a data set of which one training and one test image cannot be read."""
    schema = pa.schema([("image", pa.binary()), ("label", pa.int64()), ("filename", pa.string())])
    for split in ("train", "test"):
        images = [jpeg(torch.full((3, 16, 16), 20 * i, dtype=torch.uint8)) for i in range(12)]
        images[5] = b"no image at all"
        names = [f"{split}{i}.jpg" for i in range(12)]
        columns = {"image": images, "label": [i % 3 for i in range(12)], "filename": names}
        pq.write_table(pa.table(columns, schema=schema), tmp_path / f"bad_{split}.parquet")
    return tmp_path / "bad"


def on_bad(source: Path, path: str, **changes) -> Recipe:
    """Trains on it with a batch per epoch, on one of the two paths of the data."""
    augment = {"crop": "none", "randaugment_layers": 1 if path == "decoded by workers" else 0}
    data = {"source": str(source), "val_share": 0.0, **changes}
    return tiny(data=data, image_size=16, batch_size=12, augment=augment, eval_every="1 epochs")


@pytest.mark.filterwarnings("ignore:This DataLoader will create")  # on a machine with one core
@pytest.mark.parametrize(("path", "workers"), [("in memory", 0), ("decoded by workers", 0), ("decoded by workers", 1)])
def test_bad_image_is_an_error_of_one_sentence(path, workers, with_bad, tmp_path):
    with pytest.raises(ValueError) as caught:
        train(on_bad(with_bad, path), tmp_path / "run", runtime=Runtime(workers=workers))
    assert str(caught.value) == (
        "image 'train5.jpg': not a readable image (no known format); remove or replace it, or leave out what cannot be "
        "read by --on-bad-image skip."
    )


@pytest.mark.filterwarnings("ignore:This DataLoader will create")  # on a machine with one core
@pytest.mark.parametrize(("path", "workers"), [("in memory", 0), ("decoded by workers", 0), ("decoded by workers", 1)])
def test_bad_images_are_left_out_counted_and_named(path, workers, with_bad, tmp_path, monkeypatch):
    sizes = []
    step = train_state.TrainState.step
    monkeypatch.setattr(
        train_state.TrainState,
        "step",
        lambda self, batch, n: (sizes.append(len(batch.labels)), step(self, batch, n))[1],
    )
    recipe = on_bad(with_bad, path, on_bad_image="skip", max_bad_share=0.1)
    result = train(recipe, tmp_path / "run", runtime=Runtime(workers=workers))
    assert result["bad_images"] == [
        {"name": f"{split}5.jpg", "error": "not a readable image (no known format)"} for split in ("test", "train")
    ]
    assert result["n"] == 11 and sizes == [11] * 10  # none is replaced
    scored = json.loads((tmp_path / "run/test.json").read_text())
    assert all(mistake["name"] == f"test{mistake['index']}.jpg" for mistake in scored["worst"])
    assert scored["train_counts"] == [4, 4, 4] and "calibration_before" not in scored


@pytest.mark.parametrize("path", ["in memory", "decoded by workers"])
def test_too_many_bad_images_stop_the_run(path, with_bad, tmp_path):
    recipe = on_bad(with_bad, path, on_bad_image="skip")
    message = r"1 of 24 images cannot be read, more than the 1.00% that may be left out \(the first is 'train5.jpg'"
    with pytest.raises(ValueError, match=message):
        train(recipe, tmp_path / "run", runtime=Runtime(workers=0))


def test_bad_images_are_still_named_after_a_resume(with_bad, tmp_path, monkeypatch):
    recipe = on_bad(with_bad, "decoded by workers", on_bad_image="skip", max_bad_share=0.1)
    whole = train(recipe, tmp_path / "whole", runtime=Runtime(workers=0))
    killed_at(7, monkeypatch, recipe, tmp_path / "parts", runtime=Runtime(workers=0))
    parts = train(recipe, tmp_path / "parts", runtime=Runtime(workers=0))
    assert parts["bad_images"] == whole["bad_images"]
    assert_same_weights(tmp_path / "whole", tmp_path / "parts")


def test_what_to_do_about_bad_images_may_change_when_a_run_goes_on(with_bad, tmp_path, monkeypatch):
    recipe = on_bad(with_bad, "decoded by workers", on_bad_image="skip", max_bad_share=0.1)
    train(recipe, tmp_path / "whole", runtime=Runtime(workers=0))
    killed_at(7, monkeypatch, recipe, tmp_path / "parts", runtime=Runtime(workers=0))
    more = changed(recipe, data={"max_bad_share": 0.5})
    train(more, tmp_path / "parts", runtime=Runtime(workers=0))
    assert_same_weights(tmp_path / "whole", tmp_path / "parts")
    folder = RunFolder(tmp_path / "parts")
    folder.check_recipe(changed(recipe, data={"on_bad_image": "error"}))
    with pytest.raises(ValueError, match=r"holds another run: data.val_share \(0.0 there, 0.1 now\)"):
        folder.check_recipe(changed(recipe, data={"val_share": 0.1}))


@pytest.mark.parametrize("path", ["in memory", "decoded by workers"])
def test_images_of_which_none_can_be_read_are_refused(path, tmp_path):
    for split in ("train", "test"):
        columns = {"image": [b"nothing"] * 6, "label": [0, 1] * 3}
        pq.write_table(pa.table(columns), tmp_path / f"bad_{split}.parquet")
    recipe = on_bad(tmp_path / "bad", path, on_bad_image="skip", max_bad_share=1.0)
    with pytest.raises(ValueError, match="none of the 6 images tried, such as '.*', can be read|no step had an image"):
        train(recipe, tmp_path / "run", runtime=Runtime(workers=0))


@pytest.fixture
def several_labels(tmp_path) -> Path:
    """A CSV of 60 images that are red, bright, both or neither."""
    rows = ["path,label,split"]
    for i in range(60):
        red, bright = i % 2, i // 2 % 2
        pixels = torch.zeros(3, 16, 16, dtype=torch.uint8)
        pixels[0], pixels[1] = 150 * red + i, 150 * bright + i
        (tmp_path / f"{i}.jpg").write_bytes(jpeg(pixels))
        names = [name for name, has in (("red", red), ("bright", bright)) if has]
        rows.append(f"{i}.jpg,{';'.join(names)},{'test' if i % 5 == 0 else 'train'}")
    (tmp_path / "labels.csv").write_text("\n".join(rows))
    return tmp_path / "labels.csv"


def test_images_with_several_labels_are_learnt_and_scored(several_labels, tmp_path):
    recipe = tiny(data={"source": str(several_labels), "val_share": 0.2}, image_size=16, duration="120 steps")
    recipe = changed(recipe, augment={"crop": "none"}, eval_every="40 steps")
    result = train(recipe, tmp_path / "run")
    assert result["map"] > 0.95 and result["micro_f1"] > 0.9 and result["n"] == 12
    info = info_of(load(tmp_path / "run"))
    assert info.loss == "sigmoid" and len(info.thresholds) == 2 and 0 < min(info.thresholds) < 1
    again = evaluate(tmp_path / "run")
    assert dict(again.scores()) == {key: result[key] for key in dict(again.scores())}


def test_several_labels_start_from_the_frequency_of_each_class(several_labels):
    recipe = tiny(data={"source": str(several_labels), "val_share": 0.0}, image_size=16)
    bias = set_up(recipe, Runtime()).model.head.bias
    labels = torch.from_numpy(open_source(str(several_labels)).splits["train"].labels).double()
    torch.testing.assert_close(bias.double().sigmoid(), (labels.sum(0) + 1) / (len(labels) + 2), rtol=1e-5, atol=1e-6)
    given = set_up(changed(recipe, model={"head_bias": -3.0}), Runtime()).model.head.bias
    assert given.tolist() == [-3.0, -3.0]


def test_softmax_for_several_labels_is_refused(several_labels, tmp_path):
    with pytest.raises(ValueError, match="has images with several labels, and loss=softmax allows one"):
        train(tiny(data={"source": str(several_labels)}, image_size=16, loss="softmax"), tmp_path / "run")
    with pytest.raises(ValueError, match="cannot be drawn equally often by class; use --balance loss"):
        train(tiny(data={"source": str(several_labels)}, image_size=16, balance="sampling"), tmp_path / "run")


@pytest.mark.parametrize("balance", ["loss", "sampling"])
def test_balance_helps_the_rare_class(balance, tmp_path):
    rng = np.random.default_rng(0)
    for split, counts in (("train", (190, 10)), ("test", (50, 50))):
        labels = np.repeat([0, 1], counts)
        values = (rng.normal(110, 25, len(labels)) + 30 * labels).clip(0, 255).astype(np.uint8)  # they overlap
        images = [jpeg(torch.full((3, 16, 16), int(value), dtype=torch.uint8)) for value in values]
        pq.write_table(pa.table({"image": images, "label": labels}), tmp_path / f"rare_{split}.parquet")
    data, augment = {"source": str(tmp_path / "rare"), "val_share": 0.0}, {"crop": "none"}
    recipe = tiny(data=data, augment=augment, image_size=16, duration="60 steps", eval_every="60 steps")
    recalls = []
    for name in ("none", balance):
        train(changed(recipe, balance=name), tmp_path / name)
        recalls.append(json.loads((tmp_path / name / "test.json").read_text())["per_class"][1]["recall"])
    assert recalls[1] > recalls[0] + 0.2
