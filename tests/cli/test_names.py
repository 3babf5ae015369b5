"""Names on disk that are no valid Unicode, or that would break a line: every command goes on and shows them escaped."""

import json
import os

import numpy as np
import pytest
from PIL import Image

from mixonomy.cli import main

SMALL = [
    *("--model.patch-size", "4", "--model.hidden-dim", "8", "--model.num-blocks", "2", "--model.tokens-mlp-dim", "4"),
    *("--model.channels-mlp-dim", "8", "--image-size", "8", "--batch-size", "4", "--duration", "2 steps"),
]
ODD = os.fsdecode(b"\xff")


@pytest.fixture
def odd(tmp_path):
    """Two classes of six images of noise; one class, and the images of the other, have odd names."""
    rng = np.random.default_rng(0)
    for folder, ending in ((f"cats {ODD}", ".png"), ("dogs", f"{ODD}\n.png")):
        (tmp_path / "odd" / folder).mkdir(parents=True)
        for i in range(6):
            pixels = rng.integers(0, 256, (12, 12, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(tmp_path / "odd" / folder / f"{i}{ending}", "PNG")
    return tmp_path / "odd"


def test_odd_names_are_trained_scored_and_reported(odd, tmp_path, capsys):
    run = tmp_path / "run"
    (odd / "dogs" / f"bad{ODD}.jpg").write_bytes(b"no image")
    command = ["train", "--data", str(odd), *SMALL, "--out", str(run), "--device", "cpu", "--json"]
    assert main([*command, "--on-bad-image", "skip", "--max-bad-share", "0.5"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert [image["name"] for image in result["bad_images"]] == [f"dogs/bad{ODD}.jpg"]
    assert json.loads((run / "result.json").read_bytes()) == result
    assert r"cats \udcff" in (run / "report.html").read_text()
    assert main(["eval", str(run), "--on-bad-image", "skip"]) == 0
    assert r"cats \udcff" in capsys.readouterr().out
    assert main(["predict", str(run), str(odd / "dogs")]) == 1


def test_odd_names_are_checked(odd, tmp_path, capsys):
    (odd / "dogs" / f"bad{ODD}\n.jpg").write_bytes(b"no image")
    page = tmp_path / "page.html"
    assert main(["data", "check", str(odd), "--json", "--out", str(page)]) == 1
    out, err = capsys.readouterr()
    names = [image["name"] for case in json.loads(out)["findings"][0]["cases"] for image in case["images"]]
    assert len(out.splitlines()) == 1 and names == [f"dogs/bad{ODD}\n.jpg"]
    assert r"train/dogs/bad\xff\n.jpg: not a readable image" in err and page.is_file()
