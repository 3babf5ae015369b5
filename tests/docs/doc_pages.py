"""The commands of the documentation, and a folder in which they can be run: small stand-ins of all that they name."""

import io
import json
import re
import shlex
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

import mixonomy as mx

ROOT = Path(__file__).resolve().parents[2]
PAGES = (ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md")))
KNOWN = ("cifar10", "cifar100", "eurosat", "flowers102", "imagenet1k")  # data sets whose names the pages use
# What a page leaves to its reader -> what is there in the prepared folder.
PLACEHOLDERS = {
    "RUN": "runs/demo", "PATH...": "photos", "SOURCE": "photos", "OTHER": "my_images", "FOLDER": "known",
    "PAGE.html": "page.html",
}  # fmt: skip


@dataclass(frozen=True)
class Command:
    """One command of a page.

    Args:
      place: page and line.
      text: as it stands there.
    """

    place: str
    text: str

    @property
    def words(self) -> list[str]:
        """Without comments, with placeholders filled in, and with what is optional."""
        text = re.sub(r"\[(--[^\]]*)\]", r"\1", self.text).removeprefix(".venv/bin/")
        words = [word for word in shlex.split(text, comments=True) if word != "..."]
        return [PLACEHOLDERS.get(word, word).replace("/data/", "data/") for word in words]


def blocks(page: Path, *languages: str) -> Iterator[tuple[int, str]]:
    """(first line's number, text) of the fenced blocks of some languages; "" for those that name none."""
    fence = re.compile(r"^```([\w-]*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
    text = page.read_text(encoding="utf-8")
    for found in fence.finditer(text):
        if found[1] in languages:
            yield text.count("\n", 0, found.start()) + 2, found[2]


def commands(page: Path) -> Iterator[Command]:
    """The commands of a page, one a line; a backslash at its end joins it to the next."""
    for first, text in blocks(page, "sh", "bash", "console"):
        joined = text.replace("\\\n", " ")
        for number, line in enumerate(joined.splitlines()):
            if shlex.split(line, comments=True):
                yield Command(f"{page.relative_to(ROOT)}:{first + number}", line.strip())


def prepare(folder: Path) -> None:
    """Writes what the pages take as given: images, data sets, a trained run under several names, results, and keys."""
    shutil.copytree(ROOT / "results", folder / "results")
    _class_folders(folder / "photos", seed=0)
    _class_folders(folder / "my_images", seed=1)
    for number, name in enumerate(KNOWN):
        for split in ("train", "val", "test"):
            _parquet(folder / "known" / f"{name}_{split}.parquet", seed=100 + 10 * number + len(split))
    _parquet(folder / "my_images.parquet", seed=7)
    for number, name in enumerate(("photo.jpg", "one.jpg", "two.png", "cat.jpg", "digit.png")):
        (folder / name).write_bytes(_image(200 + number))
    (folder / "my_recipe.py").write_text(
        "from mixonomy.recipe import changed\nfrom mixonomy.recipes import load_recipe\n\n"
        'recipe = changed(load_recipe("digits"), name="mine")\n'
    )
    (folder / "my_suite.py").write_text(
        "from mixonomy.evals.suites import Suite, Task\n\n"
        'suite = Suite("mine", (Task("eurosat", "eurosat", num_classes=3),))\n'
    )
    (folder / "real.json").write_text(json.dumps([[0]] * 12))
    (folder / "keys").write_text("k" * 32 + "\n")
    _trained(folder / "runs" / "demo", folder / "photos")
    for name in ("x", "mixer", "vit", "resnet"):
        shutil.copytree(folder / "runs" / "demo", folder / "runs" / name)


def _trained(out: Path, photos: Path) -> None:
    """A finished run on the photos, of a Mixer of a few weights."""
    from mixonomy.recipe import changed
    from mixonomy.recipes import load_recipe

    sizes = {"hidden_dim": 16, "num_blocks": 2, "tokens_mlp_dim": 8, "channels_mlp_dim": 16}
    recipe = changed(load_recipe("digits"), data={"source": str(photos)}, model=sizes, duration="10 steps")
    mx.train(changed(recipe, batch_size=16, eval_every="10 steps", precision="fp32"), out)


def _image(seed: int) -> bytes:
    """A PNG of 12 x 16 pixels, smooth, another one for each seed."""
    coarse = np.random.default_rng(seed).integers(0, 256, (3, 4, 3), np.uint8)
    file = io.BytesIO()
    Image.fromarray(coarse).resize((16, 12), Image.Resampling.BICUBIC).save(file, "PNG")
    return file.getvalue()


def _class_folders(root: Path, seed: int, count: int = 40) -> None:
    for label, name in enumerate(("ant", "bee", "cat")):
        (root / name).mkdir(parents=True)
        for number in range(count):
            (root / name / f"{number}.png").write_bytes(_image(10_000 * (seed + 1) + 1000 * label + number))


def _parquet(path: Path, seed: int, count: int = 36) -> None:
    path.parent.mkdir(exist_ok=True)
    images = [_image(1000 * seed + number) for number in range(count)]
    table = pa.table({"image": images, "label": [("ant", "bee", "cat")[number % 3] for number in range(count)]})
    pq.write_table(table, path)
