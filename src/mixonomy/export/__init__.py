"""A trained model as a file for production: written, run on real images, and kept only if it gives the same answers.

Axes: B images, c image channels, H and W pixels, K classes.
"""

import copy
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, get_args

import torch
from torch import Tensor, nn

from mixonomy import publishing
from mixonomy.evals import Predictor, normalise, probabilities
from mixonomy.export.agreement import TOLERANCE, Agreement, agreement
from mixonomy.export.describe import Origins, described, origins_of
from mixonomy.export.files import Target, destination, num_bytes, publish, remove, small_of, workshop
from mixonomy.export.graph import save_openvino, to_onnx, to_openvino
from mixonomy.export.images import RealImages, real_images
from mixonomy.export.int8 import MAX_DROP, Gate, judge, smaller
from mixonomy.inference.exported import ExportedModel, openvino_run, read_exported
from mixonomy.inference.runtimes import imported, openvino_model
from mixonomy.inference.tuned import in_turns
from mixonomy.loading import load
from mixonomy.models import ModelInfo, info_of
from mixonomy.models.files import write_tensors
from mixonomy.predicting import predictor_of
from mixonomy.runs import RunFolder

__all__ = ["TOLERANCE", "Agreement", "Exported", "Gate", "Target", "agreement", "export_model"]

Answers = Callable[[Tensor], tuple[Tensor, Tensor]]
"""uint8 [B, c, H, W] -> logits and probabilities [B, K]."""

TIMED_IMAGES = 8
TURN = 32  # images at once when a file is checked, after one alone


@dataclass(frozen=True)
class Exported:
    """A file that gives a model's answers.

    Args:
      path: the file, or folder, to use.
      to: its kind.
      precision: "fp32" or "int8".
      agreement: with the model in float32, on real images.
      as_run: share of those images with the same likeliest class as in the precision that `mixonomy predict` computes
        the run in.
      run_precision: that precision.
      images_per_s, eager_images_per_s: of the file and of the model in float32, `batch` images at once; None where the
        file is weights alone.
      gate: how int8 was judged; None if it was not asked for.
      num_bytes: of the file with what lies beside it.
    """

    path: Path
    to: Target
    precision: str
    source: str
    agreement: Agreement
    as_run: float
    run_precision: str
    images_per_s: float | None
    eager_images_per_s: float | None
    batch: int
    num_bytes: int
    gate: Gate | None = None

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        found = self.agreement
        return {
            "path": str(self.path),
            "to": self.to,
            "precision": self.precision,
            "data": self.source,
            **asdict(found),
            "top1_agreement": found.top1_agreement,
            "top1_agreement_as_run": self.as_run,
            "run_precision": self.run_precision,
            "images_per_s": self.images_per_s,
            "eager_images_per_s": self.eager_images_per_s,
            "batch": self.batch,
            "num_bytes": self.num_bytes,
            "int8": None if self.gate is None else self.gate.to_dict(),
        }


def export_model(
    model: nn.Module | str | Path,
    to: Target = "onnx",
    out: str | Path | None = None,
    *,
    int8: bool = False,
    max_drop: float = MAX_DROP,
    image_size: int | tuple[int, int] | None = None,
    num_images: int | None = None,
    source: str | None = None,
    data_root: str | None = None,
    licence: str | None = None,
    overwrite: bool = False,
) -> Exported:
    """Writes a model as a file of another kind, and runs that on real images before it is there under its name.

    Args:
      model: a run folder, anything else that `mixonomy.load` reads, or a loaded model.
      to: "onnx", "openvino" (.xml with .bin), "safetensors", or "timm" (a folder).
      out: the file or folder; export/ in the run folder if not given, where what is there is replaced.
      int8: OpenVINO in 8-bit integers beside the float file, NAME-int8.xml, if it passes the gate.
      max_drop: of top-1 in points, which int8 must stay below with 95 % confidence.
      image_size: pixels, one number or (height, width), to resize the model to first.
      num_images: of a call of the file; any if None.
      source: a SOURCE string: the images to check it on; the model's training data if None.
      data_root: folder of the known data sets; $MIXONOMY_DATA if None.
      licence: the hub's short name, such as "apache-2.0", to be written into it.
      overwrite: whether `out` may replace a file.
    Raises:
      ValueError: if an option does not suit, a package of the extra `export` is missing, the model cannot be exported,
        or the file gives other answers than the model; then there is none.
    """
    _check(to, int8=int8, max_drop=max_drop, num_images=num_images, licence=licence)
    run = None if isinstance(model, nn.Module) else publishing.run_of(model)
    target = destination(run, to, out, overwrite=overwrite)
    if int8 and out is not None:
        destination(run, to, small_of(target), overwrite=overwrite)
    if to in ("onnx", "openvino"):
        for package in ("onnx", "onnxscript", *(("openvino",) if to == "openvino" else ("onnxruntime",))):
            imported(package)
    if int8:
        imported("nncf")
    if isinstance(model, nn.Module):
        if image_size is not None:
            raise ValueError("image_size has no effect on a loaded model; resize it by mixonomy.resize first.")
        model = copy.deepcopy(model)  # which stays on its device and in its mode
    else:
        model = load(model, image_size=image_size)
    if isinstance(model, ExportedModel):
        raise ValueError(f"{model.path} is exported already; export the run it came from.")
    info = info_of(model)
    if int8 and info.is_multilabel:
        raise ValueError("int8 is judged by top-1, and this model may name several classes for an image; leave it out.")
    if to in ("safetensors", "timm") and not info.arguments:
        raise ValueError(f"a {type(model).__name__} of your own is built by your own code; export it to onnx.")
    model = model.cpu().eval()
    images = real_images(info, source, data_root, calibration=int8)
    is_changed = run is not None and image_size is not None and _trained_size(run) != info.preprocessing.image_size
    origins = origins_of(run, licence, is_changed=is_changed)
    with workshop(target) as made:
        answers = _write(model, info, origins, to, made, num_images, images)
        expected = _eager(model, info)
        found = _checked(to, expected, answers, images.check)
        as_run, run_precision = _as_run(model, answers, images.check)
        small, gate = None, None
        if int8:
            small, gate = _int8(model, info, origins, made, num_images, max_drop, images)
            if small is not None:
                answers = read_exported(small).outputs
                found = _compared(expected, answers, images.check)
                as_run, run_precision = _as_run(model, answers, images.check)
        speed = eager_speed = None
        batch = num_images or min(TIMED_IMAGES, len(images.check))
        if to in ("onnx", "openvino"):
            some = images.check[:1].expand(batch, -1, -1, -1).contiguous()
            with torch.inference_mode():
                speed, eager_speed = (batch / s for s in in_turns([_first(answers), _first(expected)], some))
        publish(made, target)
        path = target if small is None else small_of(target)
        if small is not None:
            publish(small, path)
        elif int8:  # one of another model, which passed, would be taken for this one's
            remove(small_of(target))
    return Exported(
        path=path,
        to=to,
        precision="fp32" if small is None else "int8",
        source=images.source,
        agreement=found,
        as_run=as_run,
        run_precision=run_precision,
        images_per_s=speed,
        eager_images_per_s=eager_speed,
        batch=batch,
        num_bytes=num_bytes(path),
        gate=gate,
    )


def _trained_size(run: RunFolder) -> tuple[int, int]:
    return info_of(load(run.path)).preprocessing.image_size


def _check(to: str, *, int8: bool, max_drop: float, num_images: int | None, licence: str | None) -> None:
    if to not in get_args(Target):
        raise ValueError(f"unknown target {to!r}; use {', '.join(get_args(Target))}.")
    if int8 and to != "openvino":
        raise ValueError(f"int8 is for openvino, not for {to}; give --to openvino, or leave it out.")
    if not 0.0 < max_drop < 100.0:
        raise ValueError(f"max_drop is {max_drop:g}; give points of top-1 above 0 and below 100.")
    if num_images is not None and to not in ("onnx", "openvino"):
        raise ValueError(f"a fixed number of images has no effect on {to}; leave it out.")
    if num_images is not None and num_images < 1:
        raise ValueError(f"the number of images of a call is {num_images}; give at least 1, or dynamic.")
    publishing.check_licence(licence)


def _write(
    model: nn.Module,
    info: ModelInfo,
    origins: Origins,
    to: Target,
    made: Path,
    num_images: int | None,
    images: RealImages,
) -> Answers:
    """Writes the file and returns what it answers, read back from it."""
    if to in ("onnx", "openvino"):
        text = described(info, origins, to=to, precision="fp32", num_images=num_images)
        write = to_onnx if to == "onnx" else to_openvino
        write(model, info, made, text, num_images=num_images)
        return read_exported(made).outputs
    if to == "safetensors":
        write_tensors(model.state_dict(), info, made, about=origins.to_dict())
        again = load(made)
        return _eager(again, info_of(again))
    from timm import create_model

    about = {"licence": origins.licence, "recipe": origins.recipe, "result": origins.result}
    publishing.write_folder(model, made, name=made.name, for_timm=True, **about)
    return _eager(create_model(f"local-dir:{made}", pretrained=True).eval(), info)


def _eager(model: nn.Module, info: ModelInfo) -> Answers:
    """The model in float32, as a graph would answer."""

    @torch.inference_mode()
    def answers(images: Tensor) -> tuple[Tensor, Tensor]:
        logits = model(normalise(images, info.preprocessing)).float()
        probs = probabilities(logits.double(), info.loss, info.temperature, is_multilabel=info.is_multilabel)
        return logits, probs

    return answers


def _first(answers: Answers) -> Callable[[Tensor], Tensor]:
    return lambda images: answers(images)[0]


def _compared(expected: Answers, answers: Answers, images: Tensor) -> Agreement:
    """Of all images, one alone and then many at once, so that a file that fits one number of them only is found out."""
    parts = [images[:1], *images[1:].split(TURN)] if len(images) > 1 else [images]
    found = [(*expected(part), *answers(part)) for part in parts]
    return agreement(*(torch.cat(each) for each in zip(*found, strict=True)))


def _checked(to: Target, expected: Answers, answers: Answers, images: Tensor) -> Agreement:
    found = _compared(expected, answers, images)
    if problem := found.problem():
        raise ValueError(f"the {to} file answers otherwise than the model: {problem}; it is not kept.")
    return found


def _as_run(model: nn.Module, answers: Answers, images: Tensor) -> tuple[float, str]:
    """The share of images with the same likeliest class as `mixonomy predict` gives for the run on a CPU."""
    predictor: Predictor = predictor_of(model, "cpu")
    same = torch.cat([predictor(part).argmax(1) == answers(part)[1].argmax(1) for part in images.split(TURN)])
    return float(same.double().mean()), predictor.precision


def _int8(
    model: nn.Module,
    info: ModelInfo,
    origins: Origins,
    made: Path,
    num_images: int | None,
    max_drop: float,
    images: RealImages,
) -> tuple[Path | None, Gate]:
    """The file in 8-bit integers if it passes, and how it was judged."""
    expected = _first(_eager(model, info))
    graph, in_float = smaller(openvino_model(made), images.calibration, expected)
    path = small_of(made)
    text = described(info, origins, to="openvino", precision="int8", num_images=num_images, in_float=in_float)
    save_openvino(graph, path, text)
    small = read_exported(path)
    half = openvino_run(openvino_model(made), "bf16")
    floats: dict[str, Callable[[Tensor], Tensor]] = {
        "OpenVINO fp32": read_exported(made),
        "OpenVINO bf16": lambda pixels: half(pixels)[0],
    }
    gate = judge(model, info, images, small, floats, max_drop, len(in_float))
    return (path if gate.problem is None else None), gate
