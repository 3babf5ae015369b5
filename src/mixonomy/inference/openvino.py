"""8-bit integers in the whole network by OpenVINO and NNCF on a CPU, where both are installed (the extra `export`).

Axes: B images, c image channels, H and W pixels, K classes, S tokens, C channels.
"""

import contextlib
import copy
import importlib.util
import io
import logging
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from mixonomy.inference.runtimes import imported
from mixonomy.nn import TokenMLP


def is_installed() -> bool:
    """Whether both packages are there; imports neither."""
    return all(importlib.util.find_spec(package) is not None for package in ("openvino", "nncf"))


def int8(model: nn.Module, calibration: Tensor) -> Callable[[Tensor], Tensor]:
    """A model quantized by NNCF's post-training scheme, run by OpenVINO on as many threads as torch has.

    Args:
      model: images [B, c, H, W] -> logits [B, K], on the CPU; left as it is.
      calibration: images float [N, c, H, W], as the model will see them.
    Raises:
      Exception: of OpenVINO's or NNCF's, if the model does not suit them.
    """
    ov = imported("openvino")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        twin, shape = _with_tokens_last(copy.deepcopy(model).eval()), [-1, *calibration.shape[1:]]
        graph = quantized(ov.convert_model(twin, example_input=calibration[:2], input=shape), calibration)
    config = {"INFERENCE_NUM_THREADS": torch.get_num_threads(), "PERFORMANCE_HINT": "LATENCY"}
    request = ov.Core().compile_model(graph, "CPU", config).create_infer_request()

    def predict(images: Tensor) -> Tensor:
        return torch.from_numpy(request.infer([images.numpy()], share_inputs=True)[0])

    return predict


def quantized(graph: Any, images: Tensor, *, in_float: Sequence[str] = ()) -> Any:
    """OpenVINO's model in 8-bit integers, with ranges of activations from images [N, c, H, W] of the dtype it takes.

    Args:
      in_float: names of operations that stay as they are.
    """
    # On import NNCF looks for a CUDA compiler, of which there is nothing to say here.
    logging.getLogger("torch.utils.cpp_extension").setLevel(logging.ERROR)
    nncf = imported("nncf")
    nncf.set_log_level(logging.ERROR)
    scope = nncf.IgnoredScope(names=list(in_float)) if in_float else None
    batch = graph.inputs[0].partial_shape[0]
    turn = batch.get_length() if batch.is_static else 1
    parts = [images[torch.arange(start, start + turn) % len(images)].numpy() for start in range(0, len(images), turn)]
    with contextlib.redirect_stdout(io.StringIO()):  # its progress bars go to standard output, which is for results
        return nncf.quantize(graph, nncf.Dataset(parts), ignored_scope=scope)


class _TokensLast(nn.Module):
    """`TokenMLP` as linear layers between two transposes, the form that NNCF quantizes."""

    def __init__(self, mixer: TokenMLP):
        super().__init__()
        self.fc1, self.act, self.fc2 = _linear(mixer.fc1), mixer.act, _linear(mixer.fc2)

    def forward(self, x: Tensor) -> Tensor:
        """[B, S, C] -> [B, S, C]."""
        return self.fc2(self.act(self.fc1(x.transpose(1, 2)))).transpose(1, 2)


def _linear(layer: nn.Linear) -> nn.Linear:
    plain = nn.Linear(layer.in_features, layer.out_features, bias=layer.bias is not None)
    plain.load_state_dict(layer.state_dict())
    return plain


def _with_tokens_last(module: nn.Module) -> nn.Module:
    for name, child in module.named_children():
        setattr(module, name, _TokensLast(child) if type(child) is TokenMLP else _with_tokens_last(child))
    return module
