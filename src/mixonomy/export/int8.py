"""8-bit integers for OpenVINO: which operations to leave in float, and the gate that the result must pass.

Axes: B images, N images in all, c image channels, H and W pixels, K classes.
"""

from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from math import sqrt
from typing import Any

import torch
from torch import Tensor, nn

from mixonomy.evals import normalise
from mixonomy.export.images import RealImages
from mixonomy.inference import fast
from mixonomy.inference.exported import ExportedModel, by_turns, num_images_of, openvino_run
from mixonomy.inference.openvino import quantized
from mixonomy.inference.tuned import in_turns
from mixonomy.models import ModelInfo

Logits = Callable[[Tensor], Tensor]
"""uint8 [B, c, H, W] -> logits [B, K]."""

MAX_DROP = 0.5  # points of top-1
Z = 1.6449  # one-sided 95 % of the normal distribution
MAX_ERROR = 0.1  # root mean square of the logits' errors over that of their spread; above it some layers stay in float
MAX_SHARE_IN_FLOAT = 0.5  # of the inputs that are quantised: a file mostly in float is not worth its name
RANKED_IMAGES = 64
TIMED_IMAGES = 8
MOVES = {"Reshape", "Transpose", "Squeeze", "Unsqueeze", "Convert"}  # OpenVINO's operations that compute nothing


@dataclass(frozen=True)
class Gate:
    """Whether a file in 8-bit integers is worth having.

    Args:
      n: validation images.
      drop: of top-1 on them, in points; below 0 if int8 is better.
      bound: which the drop is below with 95 % confidence; None without validation images.
      max_drop: which the bound must be below.
      images_per_s, float_images_per_s: of int8 and of the fastest float path, `TIMED_IMAGES` at once, or as many as the
        file takes.
      fastest_float: what that path is.
      in_float: number of operations that stay in float because they would hurt.
      problem: why the file is not kept; None if it is.
    """

    n: int
    drop: float | None
    bound: float | None
    max_drop: float
    images_per_s: float
    float_images_per_s: float
    fastest_float: str
    in_float: int
    problem: str | None

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {"kept": self.problem is None, **asdict(self)}


def smaller(graph: Any, calibration: Tensor, expected: Logits) -> tuple[Any, list[str]]:
    """OpenVINO's model in 8-bit integers, and the operations that are left in float because they hurt.

    Quantised whole first. Where the logits then err by more than `MAX_ERROR`, the quantised inputs are ranked by the
    error that each causes alone, and the worst 1, 2, 4, ... are left in float, until the error is small enough. Images
    that the gate will judge by are not looked at.

    Args:
      graph: of an exported float file; left as it is.
      calibration: uint8 [N, c, H, W].
      expected: the model's logits.
    """
    wanted = expected(calibration)
    small = quantized(graph, calibration)
    error = _error(small, calibration, wanted)
    if error <= MAX_ERROR:
        return small, []
    ranked, count = _ranked(small, calibration[:RANKED_IMAGES], wanted[:RANKED_IMAGES]), 1
    in_float: list[str] = []
    while error > MAX_ERROR and count <= MAX_SHARE_IN_FLOAT * len(ranked):
        in_float = sorted({name for names in ranked[:count] for name in names})
        small = quantized(graph, calibration, in_float=in_float)
        error, count = _error(small, calibration, wanted), 2 * count
    return small, in_float


def _error(graph: Any, images: Tensor, wanted: Tensor) -> float:
    """Root mean square of the errors of the logits, over that of the logits less each image's mean."""
    found = by_turns(openvino_run(graph, "int8"), images, num_images_of(graph) or TIMED_IMAGES)[0]
    spread = (wanted - wanted.mean(1, keepdim=True)).square().mean().sqrt().clamp_min(1e-12)
    return float((found - wanted).square().mean().sqrt() / spread)


def _ranked(graph: Any, images: Tensor, wanted: Tensor) -> list[list[str]]:
    """The names of the operations behind each quantised input, the most harmful input first."""
    names = [node.get_friendly_name() for node in _quantisers(graph)]
    harm: list[tuple[float, list[str]]] = []
    for name in names:
        twin = graph.clone()
        fed: list[str] = []
        for node in _quantisers(twin):
            if node.get_friendly_name() == name:
                fed = [reader.get_friendly_name() for reader in _readers(node)]
            else:
                for place in node.output(0).get_target_inputs():
                    place.replace_source_output(node.input_value(0))
        harm.append((_error(twin, images, wanted), fed))
    return [fed for _, fed in sorted(harm, key=lambda each: -each[0])]


def _quantisers(graph: Any) -> list[Any]:
    """OpenVINO's nodes that round activations."""
    nodes = [node for node in graph.get_ordered_ops() if node.get_type_name() == "FakeQuantize"]
    return [node for node in nodes if not _is_constant(node.input_value(0).get_node())]


def _is_constant(node: Any) -> bool:
    while node.get_type_name() in MOVES:
        node = node.input_value(0).get_node()
    return node.get_type_name() == "Constant"


def _readers(node: Any) -> Iterator[Any]:
    """What computes with a node's output, at once or after it was only moved."""
    for place in node.output(0).get_target_inputs():
        reader = place.get_node()
        if reader.get_type_name() in MOVES:
            yield from _readers(reader)
        else:
            yield reader


def judge(
    model: nn.Module,
    info: ModelInfo,
    images: RealImages,
    small: ExportedModel,
    floats: dict[str, Logits],
    max_drop: float,
    in_float: int,
) -> Gate:
    """Whether int8 costs too little accuracy to matter and is faster than every float path.

    Args:
      model: the float model, on the CPU.
      small: the file in int8.
      floats: other float paths by name, beside those of `mixonomy.fast`.
      max_drop: of top-1, in points.
      in_float: number of operations that were left in float.
    """
    timed = small.num_images or TIMED_IMAGES
    some = images.check[:1].expand(timed, -1, -1, -1).contiguous()
    quick = fast(model, cache=None)
    paths: dict[str, Logits] = {"mixonomy.fast": lambda x: quick(normalise(x, info.preprocessing)), **floats}
    seconds, *others = in_turns([small, *paths.values()], some)
    best = min(range(len(others)), key=others.__getitem__)
    name = (*paths,)[best]
    name = f"mixonomy.fast ({quick.backend} {quick.precision})" if best == 0 else name
    n, lost, gained = 0, 0, 0
    if images.val is not None:
        for batch, labels in images.labelled():
            with torch.inference_mode():
                was_right = model(normalise(batch, info.preprocessing)).argmax(1) == labels
            is_right = small(batch).argmax(1) == labels
            n += len(labels)
            lost, gained = lost + int((was_right & ~is_right).sum()), gained + int((~was_right & is_right).sum())
    is_faster = seconds < others[best]
    rates = timed / seconds, timed / others[best]
    drop = 100.0 * (lost - gained) / n if n else None
    bound = 100.0 * upper_bound(n, lost, gained) if n else None
    problem = _problem(n, lost, gained, max_drop)
    if problem is None and not is_faster:
        problem = f"it is not faster than {name} on this machine, {rates[0]:,.0f} against {rates[1]:,.0f} images/s"
    return Gate(n, drop, bound, max_drop, *rates, name, in_float, problem)


def _problem(n: int, lost: int, gained: int, max_drop: float) -> str | None:
    """Why the accuracy of int8 does not pass; `max_drop` in points."""
    if not n:
        return "there are no labelled images that the model has not learned from to judge it by; give --data SOURCE"
    drop, bound = 100.0 * (lost - gained) / n, 100.0 * upper_bound(n, lost, gained)
    if bound < max_drop:
        return None
    if -100.0 * upper_bound(n, gained, lost) >= max_drop:  # surely, by the same interval from its other side
        return f"it costs {drop:.2f} points of top-1 on {n:,} validation images, and {max_drop:g} are allowed"
    least = int(Z**2 * (100.0 / max_drop - 1.0)) + 1
    wanted = f"at least {least:,} are needed" if n < least else "more are needed"
    return (
        f"{n:,} validation images are too few to tell: the drop of top-1 is {drop:.2f} points there and may be up to "
        f"{bound:.2f}, {max_drop:g} are allowed, and {wanted}; give them by --data SOURCE, or a larger --max-drop"
    )


def upper_bound(n: int, lost: int, gained: int) -> float:
    """What the drop of accuracy is below with 95 % confidence, by a score interval for paired answers.

    Unlike an interval of the observed deviation it is above 0 where no answer changed, and tells few images from many.

    Args:
      n: number of images, at least 1.
      lost, gained: how many of them only the first model, only the second model answers rightly.
    Returns:
      A share of the images.
    Source: Tango 1998, "Equivalence test and confidence interval for the difference in proportions for the
      paired-sample design", section 4; one-sided.
    """
    low, high = (lost - gained) / n, 1.0
    for _ in range(60):
        middle = (low + high) / 2
        a, b = 2.0 * n, -lost - gained + (2.0 * n - lost + gained) * middle
        c = -gained * middle * (1.0 - middle)
        share = (sqrt(max(b * b - 4.0 * a * c, 0.0)) - b) / (2.0 * a)  # gained, likeliest if the drop were `middle`
        deviation = sqrt(max(n * (2.0 * share + middle * (1.0 - middle)), 1e-300))
        if (n * middle - lost + gained) / deviation < Z:
            low = middle
        else:
            high = middle
    return high
