"""Inference of a model, ours (`mixonomy.fast(model)`) and others': the same weights and images.

    python -m mixonomy.bench.infer TASK        one turn, in JSON; see `turns`

Before any is timed, the logits of each setting are compared with those of our model in float64, at every batch size.

Axes: B images, c image channels, H and W pixels, K classes.
"""

import copy
import difflib
import gc
import os
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from mixonomy import devices
from mixonomy.bench import exported, limits, turns
from mixonomy.bench.peers import lucidrains_twin, randomise, timm_twin
from mixonomy.bench.turns import Measured, Turn
from mixonomy.inference import fast

MODULE = "mixonomy.bench.infer"
DEFAULT = "timm fp32"  # the yardstick: timm as it comes
INT8 = f"{turns.OURS} int8"
CHUNK = 16  # images at a time in float64
CHECKED_IMAGES = 8  # at least
CALIBRATION_IMAGES = 64

# Largest norm of the difference from float64, over the norm of the logits; of int8 it is only reported.
TOLERANCES = {"fp32": 1e-4, "bf16": 5e-2}


@dataclass(frozen=True)
class Setting:
    """Who predicts, in which precision ("auto": what `mixonomy.fast(model)` chooses), compiled or not."""

    library: Literal["ours", "timm", "lucidrains", "onnxruntime", "openvino"]
    precision: Literal["auto", "fp32", "bf16", "int8"]
    is_compiled: bool = False


# "ours" has no calibration images, so no int8; "ours int8" has random ones.
SETTINGS = {
    DEFAULT: Setting("timm", "fp32"),
    "timm bf16 autocast": Setting("timm", "bf16"),
    "timm compiled fp32": Setting("timm", "fp32", is_compiled=True),
    "timm compiled bf16": Setting("timm", "bf16", is_compiled=True),
    "lucidrains fp32": Setting("lucidrains", "fp32"),
    "onnxruntime fp32": Setting("onnxruntime", "fp32"),
    "openvino fp32": Setting("openvino", "fp32"),
    "openvino bf16": Setting("openvino", "bf16"),
    "openvino int8": Setting("openvino", "int8"),
    turns.OURS: Setting("ours", "auto"),
    INT8: Setting("ours", "int8"),
}
COMPILED = {f"{turns.OURS} compiled": Setting("ours", "auto", is_compiled=True)}
"""For a GPU: `mixonomy.fast(model, compile=True)`."""


@dataclass(frozen=True)
class Case:
    """A model and how it is called.

    Args:
      model: a name of `mixonomy.create`, for random weights, else what `mixonomy.load` reads, such as a run folder.
      image_size: (height, width); None for the run's own, or 224.
      turn_s: what the timed calls of one turn fill at each batch size, at least one call.
      gemm_size: of the matrices whose product is the limit; limits.GEMM_SIZE if None.
    """

    model: str
    batch_sizes: tuple[int, ...]
    image_size: tuple[int, int] | None = None
    num_classes: int = 1000
    turn_s: float = 1.0
    gemm_size: int | None = None


@dataclass(frozen=True)
class Result:
    """What a comparison found.

    Args:
      image_size: that the model reads.
      flops: multiplications and additions of one image.
      checked: setting -> largest relative "difference" from float64, and "top1_agreement", a share.
      measured: batch size -> setting -> its turns.
    """

    case: Case
    image_size: tuple[int, int]
    flops: float
    params: int
    checked: dict[str, dict[str, float]]
    measured: dict[int, dict[str, Measured]]
    limits: limits.Limits

    def numbers(self, setting: str, batch_size: int) -> dict[str, Any]:
        """What one setting reached at one batch size, see `turns.summary`."""
        measured = self.measured[batch_size]
        found = turns.summary(measured, setting, batch_size=batch_size, flops=self.flops * batch_size, default=DEFAULT)
        return found | self.checked.get(setting, {"difference": None, "top1_agreement": None})


def compare(
    case: Case,
    settings: Sequence[str],
    *,
    device: str = "cpu",
    rounds: int = 3,
    in_process: bool = False,
    say: Callable[[str], None] = lambda text: None,
) -> Result:
    """Checks each setting, then lets those that are right take turns.

    Args:
      settings: names in SETTINGS or COMPILED.
      in_process: all in this process, to see that it works.
      say: told of what goes on.
    Raises:
      ValueError: if our own logits differ from float64, or there is no such model.
    """
    with tempfile.TemporaryDirectory() as folder:
        own_cache = {"TORCHINDUCTOR_CACHE_DIR": str(Path(folder) / "inductor")}
        base = {"case": asdict(case), "device": device, "folder": folder}

        def do(task: dict[str, Any]) -> Any:
            return run({**base, **task}) if in_process else turns.child(MODULE, {**base, **task}, own_cache)

        facts = do({"do": "reference"})
        checked, failed = turns.checked(
            settings, lambda name: do({"do": "check", "setting": name}), say, needed=[turns.OURS]
        )
        first = {name: each.pop("first_s") for name, each in checked.items()}
        measured = {size: {name: Measured() for name in settings} for size in case.batch_sizes}

        def turn(name: str, so_far: dict[str, Measured]) -> Turn:
            at_each = [Turn(**each) for each in do({"do": "turn", "setting": name})]
            for size, found, first_s in zip(case.batch_sizes, at_each, first[name], strict=True):
                found = replace(found, peak_bytes=None) if in_process else found  # what others left is not its own
                measured[size][name].turns.append(replace(found, first_s=max(found.first_s, first_s)))
            return at_each[0]

        noted = turns.take_turns(settings, rounds, turn, say, failed)
        for of_size in measured.values():
            for name, each in of_size.items():
                each.note = noted[name].note
        machine = limits.Limits(**do({"do": "limits"}))
    return Result(case, tuple(facts["image_size"]), facts["flops"], facts["params"], checked, measured, machine)


def run(task: dict[str, Any]) -> Any:
    """Does a task in this process: "reference" first, then "check" or "turn" of a setting, and "limits"."""
    values = dict(task["case"])
    for key in ("batch_sizes", "image_size"):
        values[key] = None if values[key] is None else tuple(values[key])
    case, device, folder = Case(**values), devices.resolve_device(task["device"]), Path(task["folder"])
    if task["do"] == "reference":
        return reference(case, folder)
    if task["do"] == "limits":
        return asdict(limits.measure(device, case.gemm_size))
    setting = (SETTINGS | COMPILED)[task["setting"]]
    if setting.precision == "bf16" and devices.resolve_precision("auto", device) == "fp32":
        raise ValueError("not tried: this device has no units for bfloat16")
    with torch.no_grad():
        if task["do"] == "check":
            return check(case, setting, device, folder)
        return [asdict(turn) for turn in measure(case, setting, device, folder)]


def build(case: Case) -> nn.Module:
    """Our model in evaluation mode on the CPU: the run's, or with random weights, the same at every call, none zero.

    Raises:
      ValueError: if there is no such model.
    """
    from mixonomy.models import FAMILIES, create, list_models
    from mixonomy.models.create import family_of

    size = case.image_size
    if case.model in list_models() or (case.model.startswith("timm:") and "." not in case.model):
        # GELU as timm has it, so that all compute the same.
        has_gelu = not case.model.startswith("timm:") and family_of(case.model) != "convmixer"
        torch.manual_seed(0)
        tiny: dict[str, Any] = TINY
        model = create(
            case.model,
            num_classes=case.num_classes,
            image_size=size or (224, 224),
            gelu="erf" if has_gelu else None,
            **(tiny if case.model in FAMILIES else {}),
        )
        randomise(model, seed=0)
        return model.eval()
    if not Path(os.path.expanduser(case.model)).exists() and ":" not in case.model:
        near = difflib.get_close_matches(case.model, list_models(), n=1)
        hint = f"did you mean {near[0]!r}? " if near else ""
        raise ValueError(
            f"{case.model!r} is neither a model nor a run folder nor a file; {hint}`mixonomy list models` shows all "
            "names."
        )
    from mixonomy.loading import load

    return load(case.model, image_size=size)


def images_of(model: nn.Module, count: int, seed: int = 1) -> Tensor:
    """Random images float [count, c, H, W] in [-1, 1]: coarse shapes, which tell them apart, and noise."""
    from mixonomy.models import info_of

    prepared = info_of(model).preprocessing
    generator = torch.Generator().manual_seed(seed)
    shapes = torch.randn(count, prepared.channels, 4, 4, generator=generator)
    smooth = nn.functional.interpolate(shapes, size=prepared.image_size, mode="bilinear")
    return (0.6 * smooth + 0.2 * torch.randn(smooth.shape, generator=generator)).clamp(-1.0, 1.0)


def reference(case: Case, folder: Path) -> dict[str, Any]:
    """Images and float64 logits, kept in the folder for `check`; returns FLOPs of an image, parameters, image size."""
    from safetensors.torch import save_file

    from mixonomy.models import info_of

    model = build(case)
    images = images_of(model, max(*case.batch_sizes, CHECKED_IMAGES))
    exact = copy.deepcopy(model).double()
    with torch.no_grad():
        logits = torch.cat([exact(part.double()) for part in images.split(CHUNK)])
    save_file({"images": images, "logits": logits}, folder / "reference.safetensors")
    return {
        "flops": limits.flops_of(model, images[:1]),
        "params": sum(p.numel() for p in model.parameters()),
        "image_size": list(info_of(model).preprocessing.image_size),
    }


def check(case: Case, setting: Setting, device: torch.device, folder: Path) -> dict[str, Any]:
    """Compares a setting's logits with the reference, at each batch size.

    Returns:
      "difference", "top1_agreement", and "first_s": the seconds of the first call at each batch size.
    Raises:
      ValueError: if a logit is not finite, or they differ by more than TOLERANCES.
    """
    images, logits = _reference(folder)
    worst, agreements, first_s = 0.0, [], []
    for size in case.batch_sizes:
        predict, precision, _ = predictor(case, setting, device, folder, size)
        parts = images[: max(size, CHECKED_IMAGES) // size * size].to(device).split(size)
        found: list[Tensor] = []
        first_s.append(turns.seconds_of(lambda x=parts[0], p=predict, to=found: to.append(_copied(p(x))), device))
        found += [_copied(predict(part)) for part in parts[1:]]
        ours, exact = torch.cat(found), logits[: len(parts) * size]
        if not ours.isfinite().all():
            raise ValueError(f"wrong: logits are not finite at batch {size}")
        difference = float((ours - exact).norm() / exact.norm())
        allowed = TOLERANCES.get(precision, float("inf"))
        if not difference <= allowed:
            raise ValueError(f"wrong: logits at batch {size} differ by {difference:.1e}, allowed are {allowed:.0e}")
        worst = max(worst, difference)
        agreements.append((len(exact), float((ours.argmax(1) == exact.argmax(1)).double().mean())))
    agreement = max(agreements)[1]
    said = f"differs from float64 by {worst:.1e}, {100 * agreement:.1f} % of top-1 the same"
    return {"difference": worst, "top1_agreement": agreement, "first_s": first_s, "said": said}


def measure(case: Case, setting: Setting, device: torch.device, folder: Path) -> list[Turn]:
    """One turn of one setting: at each batch size times, peak memory, and then the GEMM rate, in this process."""
    images, _ = _reference(folder)
    before = turns.held_bytes(device)
    found: list[Turn] = []
    for size in case.batch_sizes:
        predict, precision, backend = predictor(case, setting, device, folder, size)
        gc.collect()
        x = images[:size].to(device).contiguous()
        first_s = turns.seconds_of(lambda p=predict, x=x: p(x), device)
        seconds = turns.timed(lambda p=predict, x=x: p(x), device, for_s=case.turn_s, at_least=1)
        peak = turns.most_bytes(lambda p=predict, x=x: p(x), device) - before
        found.append(Turn(seconds, first_s, precision, backend, None, peak))
    size = limits.GEMM_SIZE.get(device.type, 2048) if case.gemm_size is None else case.gemm_size
    return [replace(turn, limit=limits.gemm_rate(size, _known(turn.precision), device)) for turn in found]


def predictor(
    case: Case, setting: Setting, device: torch.device, folder: Path, batch_size: int
) -> tuple[Callable[[Tensor], Tensor], str, str]:
    """What a setting calls, images float [B, c, H, W] -> logits [B, K]; its precision, and what computes.

    Raises:
      ValueError: if a package is missing, or the library has no such model.
    """
    if setting.library in ("onnxruntime", "openvino"):
        return _exported(case, setting, device, folder, batch_size)
    model = build(case)
    if setting.library == "ours":
        calibration = images_of(model, CALIBRATION_IMAGES, seed=2).to(device) if setting.precision == "int8" else None
        # Answers of random weights lie so close together that the gate for integers would say nothing.
        ours = fast(model.to(device), calibration, max_changed=1.0, compile=setting.is_compiled, cache=None)
        ours(images_of(model, batch_size).to(device))  # chooses
        return ours, ours.precision, ours.backend
    twin = {"timm": timm_twin, "lucidrains": lucidrains_twin}[setting.library](model).to(device).eval()
    del model
    forward: Any = twin
    if setting.is_compiled:
        import torch._inductor.config as inductor

        inductor.freezing = True
        forward = torch.compile(twin, dynamic=False)
    precision: devices.Precision = "bf16" if setting.precision == "bf16" else "fp32"

    def predict(images: Tensor) -> Tensor:
        with devices.autocast(device, precision):
            return forward(images)

    return predict, setting.precision, "torch.compile, frozen" if setting.is_compiled else "torch, eager"


def _exported(
    case: Case, setting: Setting, device: torch.device, folder: Path, batch_size: int
) -> tuple[Callable[[Tensor], Tensor], str, str]:
    if device.type != "cpu":
        raise ValueError("measured on the CPU only")

    def model() -> nn.Module:
        ours = build(case)
        try:
            return timm_twin(ours).eval()  # the plainest graph
        except ValueError:
            return ours

    images, _ = _reference(folder)
    path = exported.onnx_file(model, images[:2], folder)
    if setting.library == "onnxruntime":
        predict, backend = exported.onnxruntime(path)
        return predict, setting.precision, backend
    assert setting.precision != "auto"
    shape = (batch_size, *images.shape[1:])
    predict, backend = exported.openvino(
        path, setting.precision, shape, lambda: images_of(build(case), CALIBRATION_IMAGES, seed=2)
    )
    return predict, setting.precision, backend


# Sizes for the names of families, which have none of their own: enough to see that all of this works.
TINY = {"patch_size": 4, "hidden_dim": 32, "num_blocks": 2, "tokens_mlp_dim": 16, "channels_mlp_dim": 64}


def _reference(folder: Path) -> tuple[Tensor, Tensor]:
    from safetensors.torch import load_file

    kept = load_file(folder / "reference.safetensors")
    return kept["images"], kept["logits"]


def _copied(logits: Tensor) -> Tensor:
    """A copy in float64 on the CPU: some libraries write the next result over the last."""
    return logits.detach().to("cpu", torch.float64, copy=True)


def _known(precision: str) -> limits.Precision:
    assert precision in limits.PRECISIONS, precision
    return precision


if __name__ == "__main__":
    turns.answer(run)
