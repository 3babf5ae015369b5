"""NNCF's post-training quantization of OpenVINO's models, in a process of its own.

NNCF's native threads have crashed a process some time after their work was done, so they get none that does more:
`quantized` writes the model and the images to a temporary folder, and `python -m mixonomy.inference.quantizing FOLDER`
writes the quantized model beside them.

Axes: N images, c image channels, H and W pixels.
"""

import json
import logging
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from mixonomy.inference.runtimes import first_line, imported

FLOAT, SMALL, IMAGES, IN_FLOAT = "float.xml", "int8.xml", "images.npy", "in_float.json"


def quantized(graph: Any, images: Tensor, *, in_float: Sequence[str] = ()) -> Any:
    """OpenVINO's model in 8-bit integers, with ranges of activations from images [N, c, H, W] of the dtype it takes.

    Args:
      graph: left as it is.
      in_float: names of operations that stay as they are.
    Raises:
      ValueError: if a package is missing, or if NNCF fails or its process dies, with the last line that it wrote.
    """
    ov = imported("openvino")
    with tempfile.TemporaryDirectory(prefix="mixonomy-") as name:
        folder = Path(name)
        ov.save_model(graph, str(folder / FLOAT), compress_to_fp16=False)
        np.save(folder / IMAGES, images.numpy())
        (folder / IN_FLOAT).write_text(json.dumps(list(in_float)))
        # -P: nothing is imported from the working folder.
        command = [sys.executable, "-P", "-m", "mixonomy.inference.quantizing", name]
        done = subprocess.run(command, capture_output=True, text=True, errors="replace")
        if done.returncode:
            said = first_line(RuntimeError(done.stderr)) if done.stderr.strip() else "it said nothing"
            raise ValueError(f"NNCF cannot quantize this model: it ended with status {done.returncode} ({said}).")
        # By its bytes, since a model that is read from a file keeps the file mapped.
        return ov.Core().read_model((folder / SMALL).read_bytes(), (folder / SMALL).with_suffix(".bin").read_bytes())


def _quantize(folder: Path) -> None:
    """The process's work: reads `FLOAT`, `IMAGES` and `IN_FLOAT`, writes `SMALL`."""
    # On import NNCF looks for a CUDA compiler, of which there is nothing to say here.
    logging.getLogger("torch.utils.cpp_extension").setLevel(logging.ERROR)
    ov, nncf = imported("openvino"), imported("nncf")
    nncf.set_log_level(logging.ERROR)
    graph, images = ov.Core().read_model(str(folder / FLOAT)), np.load(folder / IMAGES, allow_pickle=False)
    names = json.loads((folder / IN_FLOAT).read_text())
    scope = nncf.IgnoredScope(names=names) if names else None
    batch = graph.inputs[0].partial_shape[0]
    turn = batch.get_length() if batch.is_static else 1
    parts = [images[np.arange(start, start + turn) % len(images)] for start in range(0, len(images), turn)]
    ov.save_model(
        nncf.quantize(graph, nncf.Dataset(parts), ignored_scope=scope), str(folder / SMALL), compress_to_fp16=False
    )


if __name__ == "__main__":
    _quantize(Path(sys.argv[1]))
    os._exit(0)  # what is written is written; the threads have no chance to crash the way out
