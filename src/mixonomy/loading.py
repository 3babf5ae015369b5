"""Loads a trained model from wherever it is: a run folder or a file of weights."""

from pathlib import Path

from torch import nn

from mixonomy.models import read_npz, read_safetensors
from mixonomy.runs import RunFolder


def load(where: str | Path, *, model: nn.Module | None = None) -> nn.Module:
    """Loads a classifier, in evaluation mode, with its class names and preprocessing.

    Args:
      where: a run folder, a .safetensors file that mixonomy wrote, or a Mixer in Google's .npz layout.
      model: the module to fill, where the run trained one of one's own.
    Raises:
      ValueError: if there is nothing there, or it is damaged, or does not fit; nothing is ever unpickled.
    """
    path = Path(where).expanduser()
    if path.is_dir():
        folder = RunFolder(path)
        folder.info()
        if not folder.model.exists():
            raise ValueError(f"the run in {path} is not finished; run the same `mixonomy train` command again.")
        path = folder.model
    if not path.is_file():
        raise ValueError(f"no file or run folder {where}; give a run folder, a .safetensors or an .npz file.")
    if path.suffix == ".npz":
        return read_npz(path)
    if path.suffix == ".safetensors":
        return read_safetensors(path, model)
    raise ValueError(f"{path} is neither a run folder nor .safetensors nor .npz; other formats are not read.")
