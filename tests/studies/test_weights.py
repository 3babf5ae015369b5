"""The study of weights: from models to rows, and from rows to words and pictures."""

import base64
import io
import json

import numpy as np
import pytest
import torch
from PIL import Image

from mixonomy.cli import main
from mixonomy.models import create, save_model
from mixonomy.report.map_pictures import diverging, mosaic
from mixonomy.rows import Origin, make_row, read
from mixonomy.studies import weights

HERE = Origin("a machine", None, "mixonomy study weights", "2026-01-01")
SIZES = {"patch_size": 4, "hidden_dim": 8, "num_blocks": 3}


def mixer(seed=0):
    torch.manual_seed(seed)
    return create("mixer", num_classes=3, image_size=16, tokens_mlp_dim=6, channels_mlp_dim=8, **SIZES).eval()


def test_rows_hold_each_block_and_the_untrained_twin_beside_it():
    model = mixer(seed=1)
    images = weights.images_for(model, None, None, 4)
    rows = list(weights.rows_of("mixer", model, images, HERE, num_probes=2))
    assert images.name == weights.RANDOM and images.pixels.shape == (4, 3, 16, 16)
    for metric in ("frequency", "mixing_rank", "from_image"):
        assert [row["at"] for row in rows if (row["model"], row["metric"]) == ("mixer", metric)] == [1.0, 2.0, 3.0]
    trained, chance = (
        [row["value"] for row in rows if (row["model"], row["metric"]) == (name, "frequency")]
        for name in ("mixer", "mixer, untrained")
    )
    assert len(chance) == 3 and trained != chance, "the twin has other weights"
    assert {row["metric"] for row in rows if "at" not in row} == {
        "stem frequency", "stem opposite", "stem alike", "stem rank"
    }  # fmt: skip
    found = weights.read(rows)
    assert [table.title for table in found.tables] == [
        "How far each block looks", "Units of the token mixers", "Stem kernels"
    ]  # fmt: skip
    assert "random images" in found.summary[0] and found.facts["models"] == ["mixer"]


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ((0.1, 0.2, 0.3), "lower than chance on average, and rise with the depth (rank correlation +1.00)"),
        ((0.39, 0.40, 0.41), "not lower than chance on average, with no clear trend"),
    ],
)
def test_words_follow_the_numbers(values, words):
    def rows_of(model, metric, numbers):
        for at, value in enumerate(numbers, start=1):
            about = {"study": "weights", "data": "weights", "unit": "", "model": model, "metric": metric}
            yield make_row(HERE, value=value, at=float(at), **about)

    rows = []
    for metric in weights.UNITS:
        rows += rows_of("mixer", metric, values if metric == "frequency" else (0.9, 0.9, 0.9))
        rows += rows_of("mixer, untrained", metric, (0.4, 0.4, 0.4))
    assert any(words in said for said in weights.read(rows).summary)
    assert any("there are opposite pairs" in said for said in weights.read(rows).summary)


def test_blocks_are_called_global_by_their_share_of_looking_everywhere():
    rows = []
    for at, distance in ((1.0, 0.1), (2.0, 0.4), (3.0, 0.5)):
        for metric, value in (("distance_elsewhere", distance), ("uniform", 0.52), ("from_image", distance)):
            about = {"study": "weights", "data": "cifar10, 16 images", "unit": "", "model": "vit", "note": "blocks"}
            rows.append(make_row(HERE, value=value, at=at, metric=metric, **about))
    assert "Global mixing in block 2 to 3 of 3, local in the others" in weights.read(rows).summary[0]


def test_mosaic_shows_each_map_in_its_own_scale():
    maps = torch.tensor([[[1.0, 0.0]], [[-4.0, 2.0]]])
    uri = mosaic(maps, "two maps").uri
    pixels = np.asarray(Image.open(io.BytesIO(base64.b64decode(uri.split(",")[1]))))
    expected = diverging(np.array([[1.0, 0.0], [-1.0, 0.5]])).round()
    assert pixels.shape == (20, 84, 4)
    for (x, y), colour in zip(((5, 5), (25, 5), (50, 5), (70, 5)), expected.reshape(4, 3), strict=True):
        assert np.abs(pixels[y, x, :3] - colour).max() <= 1


@pytest.mark.slow
def test_command_writes_page_and_rows_and_reads_them_again(tmp_path, capsys):
    save_model(mixer(), tmp_path / "mixer.safetensors")
    torch.manual_seed(0)
    convmixer = create("convmixer", num_classes=3, image_size=16, kernel_size=3, **SIZES)
    save_model(convmixer, tmp_path / "convmixer.safetensors")
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (20, 20, 3), dtype=np.uint8)).save(tmp_path / "x.png")
    files = [str(tmp_path / f"{name}.safetensors") for name in ("mixer", "convmixer")]
    options = ["--num-images", "2", "--num-probes", "1", "--out", str(tmp_path / "out"), "--json"]
    assert main(["study", "weights", *files, "--image", str(tmp_path / "x.png"), *options]) == 0
    found = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert found["models"] == ["mixer", "convmixer"] and read(tmp_path / "out/rows.jsonl") == found["rows"]
    assert not any("out" in row["command"].split() for row in found["rows"])
    page = (tmp_path / "out/weights.html").read_text()
    for part in ('id="units"', 'id="stems"', 'id="looked"', "occlusion", "blocks.2.token_mixer"):
        assert part in page
    assert "http" not in page.replace("http-equiv", "")
    again = ["study", "weights", "--rows", str(tmp_path / "out/rows.jsonl"), "--out", str(tmp_path / "again"), "--json"]
    assert main(again) == 0 and json.loads(capsys.readouterr().out.splitlines()[-1])["summary"] == found["summary"]


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        ([], "give the weights to look at"),
        (["x.safetensors", "--quick"], "one of them"),
        (["x.safetensors"], "no file or run folder x.safetensors"),
        (["x.safetensors", "--num-images", "0"], "at least 1 of each"),
        (["x.safetensors", "--names", "a", "b"], "1 models have 2 names"),
        (["--quick", "--names", "a", "b"], "3 models have 2 names"),
        (["--rows", "x", "--data", "d", "--num-probes", "3"], "leave --data and --num-probes out"),
        (["--rows", "x", "--image", "x.png", "--names", "a"], "leave --names and --image out"),
    ],
)
def test_wrong_input_is_one_sentence(arguments, complaint, capsys):
    assert main(["study", "weights", *arguments]) == 1
    err = capsys.readouterr().err.strip()
    assert complaint in err and "\n" not in err
