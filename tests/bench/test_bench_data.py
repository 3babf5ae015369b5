"""`mixonomy bench data`: every library gives the same images, what is wrong is not timed, and the command's JSON."""

import gc
import json
from dataclasses import replace

import numpy as np
import pytest
import torch

from mixonomy.bench import data, loaders, turns
from mixonomy.bench.image_files import prepared
from mixonomy.cli import main
from mixonomy.data import Source, Split

KEYS = ("images_per_s", "share_of_limit", "ratio_default", "ratio_best", "peers")


@pytest.fixture
def case(tmp_path) -> data.Case:
    count = prepared(None, tmp_path, num_images=16, batch_size=4)
    return data.Case(str(tmp_path), count, 16, 4, 0, False, 0.0)


# timm and webdataset leave files to the garbage collector, which complains when it closes them.
@pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.slow
@pytest.mark.parametrize("has_randaugment", [False, True])
@pytest.mark.parametrize("setting", data.SETTINGS)
def test_setting_gives_every_image_once_and_can_be_timed(setting, has_randaugment, case):
    case = replace(case, has_randaugment=has_randaugment)
    found = data.check(case, setting)  # raises where an image or a label is wrong
    assert found.get("difference", 0) <= data.ROUNDING and ("difference" in found) == (setting == data.LIMIT)
    turn = data.measure(case, setting)
    gc.collect()
    assert len(turn.seconds) >= 2 and min(turn.seconds) > 0


@pytest.mark.parametrize("fault", ["labels", "shape", "dtype"])
def test_wrong_batches_are_not_timed(fault, case, monkeypatch):
    def faulty(case, passes):
        for images, labels in loaders.our_batches(case, passes):
            if fault == "labels":
                labels = torch.zeros_like(labels)
            yield {"labels": images, "shape": images[..., 1:], "dtype": images.float()}[fault], labels

    monkeypatch.setitem(data.LOADERS, "torchvision", faulty)
    found = data.compare(case, (turns.OURS, "torchvision", data.LIMIT), rounds=1, in_process=True)
    assert found.numbers("torchvision")["images_per_s"] is None
    assert "wrong" in found.numbers("torchvision")["note"]
    assert found.numbers(turns.OURS)["images_per_s"] > 0
    monkeypatch.setitem(data.LOADERS, turns.OURS, faulty)
    with pytest.raises(ValueError, match="nothing was timed, since ours failed: wrong"):
        data.compare(case, (turns.OURS, data.LIMIT), rounds=1, in_process=True)


def test_arrays_of_a_source_are_written_as_files_without_loss(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (6, 5, 7, 3), dtype=np.uint8)
    split = Split(list(pixels), np.array([2, 0, 2, 0, 2, 2]), [str(i) for i in range(6)])
    assert prepared(Source("x", ("a", "b", "c"), {"train": split}), tmp_path, num_images=6, batch_size=2) == 6
    found = loaders.split_of(data.Case(str(tmp_path), 6, 8, 2, 0, False))
    assert sorted(found.labels.tolist()) == [0, 0, 1, 1, 1, 1]  # the class without images has no folder
    written = {
        data.decode(content).permute(1, 2, 0).numpy().tobytes() for content in map(found.images.__getitem__, range(6))
    }
    assert written == {image.tobytes() for image in pixels}


@pytest.mark.slow
def test_command_prints_one_object(capsys):
    assert (
        main(["bench", "data", "--quick", "--image-size", "16", "--workers", "0", "--against", "torchvision", "--json"])
        == 0
    )
    out = capsys.readouterr().out.splitlines()
    found = json.loads(out[-1])
    assert len(out) == 1 and set(KEYS) <= set(found) and list(found["peers"]) == ["torchvision"]
    assert found["share_of_limit"] > 0 and found["peers"]["torchvision"]["ratio_default"] == 1.0


@pytest.mark.parametrize(
    ("option", "complaint"),
    [
        (["--against", "dali"], "--against has 'dali'; use torchvision, timm, webdataset"),
        (["--workers", "-1"], "--workers is -1; give 0"),
        (["--images", "0"], "--images is 0; give at least 1"),
    ],
)
def test_wrong_option_is_one_sentence(option, complaint, capsys):
    assert main(["bench", "data", *option]) == 1
    assert complaint in capsys.readouterr().err
