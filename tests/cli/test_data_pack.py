"""`mixonomy data pack`, run as a person runs it, and training on what it wrote."""

import io
import json

import numpy as np
import pytest
from PIL import Image

from mixonomy.cli import main
from mixonomy.cli.data_pack import size_of
from mixonomy.data import open_source


@pytest.fixture
def folder(tmp_path):
    """36 noisy pictures of three classes, and one file that is none."""
    for number in range(36):
        path = tmp_path / "pets" / ("ant", "bee", "cow")[number % 3] / f"{number:02}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        pixels = np.random.default_rng(number).integers(0, 256, (20, 30, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(path)
    return tmp_path / "pets"


def test_what_was_packed_is_said_and_it_is_not_overwritten(folder, tmp_path, capsys):
    out = tmp_path / "out"
    assert main(["data", "pack", str(folder), str(out), "--shard-size", "100kB"]) == 0
    said = capsys.readouterr().out
    assert f"{out}: 36 images (train 36 in 2 shards), 0.2 MB" in said and f"read it as shards:{out}" in said
    assert main(["data", "pack", str(folder), str(out)]) != 0
    assert "is there already, and packing overwrites nothing; give another OUT or remove it." in capsys.readouterr().err


def test_json_is_the_last_line_with_the_images_that_were_left_out(folder, tmp_path, capsys):
    (folder / "bee/broken.png").write_bytes(b"no image")
    command = ["data", "pack", str(folder), str(tmp_path / "out"), "--json"]
    assert main(command) != 0
    said = capsys.readouterr().err
    assert "image 'bee/broken.png': not a readable image (no known format); remove or replace it, or leave out" in said
    assert main([*command, "--on-bad-image", "skip", "--max-bad-share", "0.1"]) == 0
    out, err = capsys.readouterr()
    result = json.loads(out.splitlines()[-1])
    assert result["bad_images"] == [{"name": "bee/broken.png", "error": "not a readable image (no known format)"}]
    assert result["splits"] == {"train": {"images": 36, "shards": 1}} and result["images"] == 36
    assert result["bytes"] > 36 * 1000 and result["images_per_s"] > 0 and "left out: bee/broken.png" in err


def test_short_side_makes_smaller_files(folder, tmp_path):
    assert main(["data", "pack", str(folder), str(tmp_path / "out"), "--short-side", "10"]) == 0
    content = open_source(f"shards:{tmp_path}/out").splits["train"].images[0]
    assert Image.open(io.BytesIO(content)).size == (15, 10)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--short-side", "0"], "--short-side is 0; give at least 1 pixel."),
        (["--shard-size", "many"], "--shard-size is 'many'; give a size such as 256MB or 1GB."),
        (["--shard-size", "0"], "--shard-size is '0'; give a size"),
        (["--workers", "0"], "--workers is 0; give at least 1."),
        (["--max-bad-share", "0.5"], "--max-bad-share has no effect with --on-bad-image error"),
        (["--max-bad-share", "1", "--on-bad-image", "skip"], "--max-bad-share is 1.0; give 0 or more"),
    ],
)
def test_wrong_options_are_one_sentence(folder, tmp_path, capsys, options, said):
    assert main(["data", "pack", str(folder), str(tmp_path / "out"), *options]) != 0
    assert said in capsys.readouterr().err and not list(tmp_path.glob("out*"))


@pytest.mark.parametrize(
    ("text", "size"), [("256MB", 256_000_000), ("1 GiB", 2**30), ("1.5kb", 1500), ("700", 700), ("2TB", 2 * 10**12)]
)
def test_sizes_are_read_as_people_write_them(text, size):
    assert size_of(text) == size


@pytest.mark.slow
def test_training_on_shards_goes_on_to_the_same_weights(folder, tmp_path, monkeypatch):
    from mixonomy.training import train
    from training_runs import assert_same_weights, killed_at, tiny

    assert main(["data", "pack", str(folder), f"{tmp_path}/out", "--shard-size", "20kB"]) == 0
    recipe = tiny(data={"source": f"shards:{tmp_path}/out"}, image_size=8)
    whole = train(recipe, tmp_path / "whole")
    killed_at(3, monkeypatch, recipe, tmp_path / "again")
    train(recipe, tmp_path / "again")
    assert whole["split"].startswith("a tenth of") and whole["steps"] > 3
    assert_same_weights(tmp_path / "whole", tmp_path / "again")
