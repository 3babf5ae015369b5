"""Where an exported file goes, and how it gets there: whole and checked, or not at all."""

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

from mixonomy.inference.exported import parts_of, weights_of
from mixonomy.runs import RunFolder

Target = Literal["onnx", "openvino", "safetensors", "timm"]
NAMES: dict[Target, str] = {
    "onnx": "model.onnx",
    "openvino": "model.xml",
    "safetensors": "model.safetensors",
    "timm": "timm",  # a folder
}
FOLDER = "export"
"""Of a run folder; what stands there is replaced."""


def destination(run: RunFolder | None, to: Target, out: str | Path | None, *, overwrite: bool) -> Path:
    """Where the file goes: --out, or else into the run folder.

    Raises:
      ValueError: if there is no run folder and no `out`, or it cannot be written, or it is there already.
    """
    name = NAMES[to]
    if out is None:
        if run is None:
            raise ValueError(f"this model is in no run folder; say by --out where to write, such as {name}.")
        return run.path / FOLDER / name
    out = Path(os.path.expanduser(out))
    if to != "timm" and out.suffix.lower() != Path(name).suffix:
        raise ValueError(f"--out is {out}; for {to} give a name that ends in {Path(name).suffix}.")
    if not out.absolute().parent.is_dir():
        raise ValueError(f"cannot write to {out}; its folder does not exist.")
    for each in (out,) if to not in ("onnx", "openvino") else (out, weights_of(out)):
        if os.path.lexists(each) and not overwrite:
            raise ValueError(f"{each} exists; give another --out, or --overwrite to replace it.")
    if out.exists() and out.is_dir() != (to == "timm"):
        raise ValueError(f"{out} is a {'folder' if out.is_dir() else 'file'}; give another --out.")
    return out


def small_of(out: Path) -> Path:
    """The file in 8-bit integers beside a float file."""
    return out.with_name(f"{out.stem}-int8{out.suffix}")


@contextmanager
def workshop(out: Path) -> Iterator[Path]:
    """A folder beside `out` that is gone afterwards, whatever happens; yields the path of `out`'s name in it.

    Raises:
      ValueError: if it cannot be written there.
    """
    try:
        out.parent.mkdir(exist_ok=True)
        folder = tempfile.mkdtemp(prefix=f".{out.name}.", dir=out.parent)
    except OSError as error:
        raise ValueError(f"cannot write to {out.parent} ({error.strerror}); give another --out.") from None
    try:
        yield Path(folder) / out.name
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def publish(made: Path, out: Path) -> None:
    """Moves a file or folder, and the files that belong to it, to where it shall be; itself last."""
    if made.is_dir():
        out.mkdir(exist_ok=True)
        for each in made.iterdir():
            os.replace(each, out / each.name)
        return
    parts, old = parts_of(made), parts_of(out)
    if len(old) > len(parts):  # weights beside the old file, which would be taken for the new one's
        old[1].unlink()
    for part in reversed(parts):
        os.replace(part, out.with_name(out.stem + part.name.removeprefix(made.stem)))


def remove(path: Path) -> None:
    """Removes an exported file with what belongs to it, if it is there; without it nothing does."""
    if path.is_file():
        for part in reversed(parts_of(path)):
            part.unlink()


def num_bytes(path: Path) -> int:
    """Of a file with those that belong to it, or a folder."""
    parts = list(path.iterdir()) if path.is_dir() else parts_of(path)
    return sum(part.stat().st_size for part in parts)
