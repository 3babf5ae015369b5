"""Training steps of a model, ours and others': the same weights, batch, loss and optimizer.

    python -m mixonomy.bench.train TASK        one turn, in JSON; see `turns`

A step goes from uint8 images on the device to changed weights. Before any is timed, each setting takes one step of
plain SGD, and what the weights moved by is compared with the gradient in float64.

Axes: B images, H and W pixels, K classes.
"""

import copy
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor, nn

from mixonomy import devices
from mixonomy.bench import limits, turns
from mixonomy.bench.step import (
    CHECK_LR,
    LABEL_SMOOTHING,
    TINY,
    Case,
    Setting,
    batch,
    build,
    normalised,
    training_step,
    twin,
)
from mixonomy.bench.turns import HOPELESS, Measured, Turn
from mixonomy.models.create import family_of

if TYPE_CHECKING:
    from mixonomy.recipe import Recipe

MODULE = "mixonomy.bench.train"
DEFAULT = "timm fp32"  # the yardstick: timm as it comes
CHUNK = 32  # images at a time in float64
PROBE_SHARE = 8  # the first step of a slow precision sees one image in so many

# Largest difference from float64, relative: of the loss; of the gradient, in fp32 any parameter's, in bf16 as a whole.
TOLERANCES = {"fp32": (1e-4, 1e-3), "bf16": (2e-2, 5e-2)}
SMALL = 1e-3  # of the whole gradient's norm: a bias before a norm has no gradient but what rounding leaves


SETTINGS = {
    DEFAULT: Setting("timm", "fp32"),
    "timm bf16 autocast": Setting("timm", "bf16"),
    "timm compiled fp32": Setting("timm", "fp32", is_compiled=True),
    "timm compiled bf16": Setting("timm", "bf16", is_compiled=True),
    "lucidrains fp32": Setting("lucidrains", "fp32"),
    "lucidrains bf16 autocast": Setting("lucidrains", "bf16"),
    turns.OURS: Setting("ours", "auto"),
}
LESS_MEMORY = {
    f"{turns.OURS} in 4 pieces": Setting("ours", "auto", accumulate=4),
    f"{turns.OURS} checkpointed": Setting("ours", "auto", checkpoint_blocks=True),
}
COMPILED = {f"{turns.OURS} compiled": Setting("ours", "auto", is_compiled=True)}
"""For a GPU, where a compiler makes few kernels of many."""


def case_of_model(name: str, image_size: int, *, batch_size: int = 32, num_classes: int = 1000) -> Case:
    """A model by its name, with the GELU that timm has.

    Raises:
      ValueError: if there is no such model.
    """
    model: dict[str, Any] = {"name": name}
    if not name.startswith("timm:") and family_of(name) != "convmixer":
        model["gelu"] = "erf"
    return Case(model, (image_size, image_size), batch_size, num_classes)


def case_of_recipe(recipe: "Recipe", *, num_classes: int = 10) -> Case:
    """Model, image size and batch size of a recipe; its optimizer, augmentation and loss are not part of it."""
    assert recipe.height_width is not None  # only fine-tuning has none
    return Case(recipe.model.model_dump(), recipe.height_width, recipe.batch_size, num_classes)


@dataclass(frozen=True)
class Result:
    """What a comparison found.

    Args:
      flops: multiplications and additions of one training step.
      differences: setting -> largest relative difference of loss or gradient from float64.
      measured: setting -> its turns.
    """

    case: Case
    flops: float
    params: int
    differences: dict[str, float]
    measured: dict[str, Measured]
    limits: limits.Limits

    def numbers(self, setting: str) -> dict[str, Any]:
        """What one setting reached; None where there is no number, and then `note` says why."""
        found = turns.summary(
            self.measured, setting, batch_size=self.case.batch_size, flops=self.flops, default=DEFAULT
        )
        return found | {"difference": self.differences.get(setting)}


def compare(
    case: Case,
    settings: Sequence[str],
    *,
    device: str = "cpu",
    rounds: int = 3,
    precision: Literal["auto", "fp32", "bf16"] = "auto",
    in_process: bool = False,
    say: Callable[[str], None] = lambda text: None,
) -> Result:
    """Checks each setting, then lets those that are right take turns.

    Args:
      settings: names in SETTINGS, LESS_MEMORY or COMPILED.
      precision: of ours.
      in_process: all in this process, to see that it works.
      say: told of what goes on.
    Raises:
      ValueError: if our own step differs from float64, or cannot be run.
    """
    with tempfile.TemporaryDirectory() as folder:
        # A compiler's cache of its own: else the first step's time would depend on what was measured before.
        own_cache = {"TORCHINDUCTOR_CACHE_DIR": str(Path(folder) / "inductor")}
        base = {"case": asdict(case), "device": device, "precision": precision, "folder": folder}

        def do(task: dict[str, Any]) -> Any:
            return run({**base, **task}) if in_process else turns.child(MODULE, {**base, **task}, own_cache)

        facts = do({"do": "reference"})
        checked, failed = turns.checked(
            settings, lambda name: do({"do": "check", "setting": name}), say, needed=[turns.OURS]
        )

        def turn(name: str, so_far: dict[str, Measured]) -> Turn:
            # Only bfloat16 can be hopeless by nature; float32 that is slow is a machine that is busy.
            yardstick = so_far[DEFAULT].seconds if DEFAULT in so_far and _setting(name).precision == "bf16" else []
            slow_after_s = HOPELESS * median(yardstick) if yardstick else 1e9
            found = Turn(**do({"do": "turn", "setting": name, "slow_after_s": slow_after_s}))
            found = replace(found, peak_bytes=None) if in_process else found  # what others left is not its own
            return replace(found, first_s=max(found.first_s, checked[name]["first_s"]))

        measured = turns.take_turns(settings, rounds, turn, say, failed)
        machine = limits.Limits(**do({"do": "limits"}))
    differences = {name: each["difference"] for name, each in checked.items()}
    return Result(case, facts["flops"], facts["params"], differences, measured, machine)


def run(task: dict[str, Any]) -> Any:
    """Does a task in this process: "reference" first, then "check" or "turn" of a setting, and "limits"."""
    values = {**task["case"], "image_size": tuple(task["case"]["image_size"])}
    case, device, folder = Case(**values), devices.resolve_device(task["device"]), Path(task["folder"])
    if task["do"] == "reference":
        return reference(case, device, folder)
    if task["do"] == "limits":
        return asdict(limits.measure(device, case.gemm_size))
    setting = _setting(task["setting"])
    if setting.library == "ours":
        setting = replace(setting, precision=task["precision"])
    if task["do"] == "check":
        return check(case, setting, device, folder)
    return asdict(measure(case, setting, device, task["slow_after_s"]))


def _setting(name: str) -> Setting:
    return (SETTINGS | LESS_MEMORY | COMPILED)[name]


def reference(case: Case, device: torch.device, folder: Path) -> dict[str, Any]:
    """Loss and gradient in float64, kept in the folder for `check`; returns the FLOPs of a step and the parameters."""
    from safetensors.torch import save_file

    model = build(case).to(device)
    images, labels = batch(case, device)
    exact = copy.deepcopy(model).double()
    loss = 0.0
    for x, y in zip(images.split(CHUNK), labels.split(CHUNK), strict=True):
        part = nn.functional.cross_entropy(exact(normalised(x, torch.float64)), y, label_smoothing=LABEL_SMOOTHING)
        part = part * (len(x) / len(images))
        part.backward()
        loss += part.item()
    gradients = {name: p.grad.float().cpu() for name, p in exact.named_parameters() if p.grad is not None}
    save_file(gradients | {"loss": torch.tensor(loss)}, folder / "reference.safetensors")
    # Backward multiplies twice as often as forward: once for the inputs' gradient, once for the weights'.
    flops = 3 * limits.flops_of(model, normalised(images[:1], torch.float32)) * case.batch_size
    return {"flops": flops, "params": sum(p.numel() for p in model.parameters())}


def check(case: Case, setting: Setting, device: torch.device, folder: Path) -> dict[str, Any]:
    """Compares one step with the reference; returns the largest relative difference, and the seconds of the step.

    Raises:
      ValueError: if they differ by more than TOLERANCES.
    """
    from safetensors.torch import load_file

    exact = load_file(folder / "reference.safetensors")
    expected_loss = float(exact.pop("loss"))
    gradients = build(case)
    load_all(gradients, exact)
    expected = twin(gradients, setting).state_dict()  # a twin's weights are ours in other names and shapes; so here
    model = twin(build(case), setting)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    step = training_step(case, setting, device, model.to(device), is_checked=True)
    losses: list[float] = []
    first_s = turns.seconds_of(lambda: losses.append(float(step(case.batch_size))), device)
    moved = {name: (before[name] - tensor.cpu()) / CHECK_LR for name, tensor in model.state_dict().items()}
    precision = devices.resolve_precision(setting.precision, device)
    names = [name for name, _ in model.named_parameters()]
    together = [torch.cat([each[name].flatten() for name in names]) for each in (moved, expected)]
    whole, floor = _relative(together[0], together[1]), SMALL * float(together[1].norm())
    parts = {name: _relative(moved[name], expected[name], floor) for name in names}
    worst = max(parts, key=lambda name: parts[name])
    loss_difference = abs(losses[0] - expected_loss) / abs(expected_loss)
    of_loss, of_gradient = TOLERANCES[precision]
    if not loss_difference <= of_loss:
        raise ValueError(f"wrong: the loss differs from float64 by {loss_difference:.1e}, allowed are {of_loss:.0e}")
    found, what = (parts[worst], f"of {worst}") if precision == "fp32" else (whole, "as a whole")
    if not found <= of_gradient:
        raise ValueError(f"wrong: the gradient {what} differs by {found:.1e}, allowed are {of_gradient:.0e}")
    worst_difference = max(found, loss_difference)
    said = f"largest difference from float64 {worst_difference:.1e}"
    return {"difference": worst_difference, "first_s": first_s, "said": said}


def measure(case: Case, setting: Setting, device: torch.device, slow_after_s: float) -> Turn:
    """One turn of one setting: step times, peak memory and the GEMM rate, in this process.

    Args:
      slow_after_s: where bfloat16 is emulated, which may take many minutes: if a step on an eighth of the batch takes
        an eighth of this, twice, no whole one follows, and eight times its seconds stand for it.
    Raises:
      ValueError: for compiled code in emulated bfloat16, which would be compiled for each of the two sizes.
    """
    precision = devices.resolve_precision(setting.precision, device)
    is_emulated = precision == "bf16" and devices.resolve_precision("auto", device) == "fp32"
    if is_emulated and setting.is_compiled:
        raise ValueError("not tried: this device has no units for bfloat16")
    if setting.library == "ours":
        devices.prepare(device)  # as `mixonomy train` does
    # Loads what a first step loads, whose time and memory are not the model's.
    tiny = Case({"name": "mixer", **TINY}, (8, 8), 1, num_classes=2)
    training_step(
        tiny, replace(setting, is_compiled=False, accumulate=1), device, twin(build(tiny), setting).to(device)
    )(1)
    before = turns.held_bytes(device)
    step = training_step(case, setting, device, twin(build(case), setting).to(device))
    part = max(case.batch_size // PROBE_SHARE, 1)
    probes: list[float] = []
    while is_emulated and len(probes) < 2 and min(probes, default=slow_after_s + 1) > slow_after_s:
        probes.append(case.batch_size / part * turns.seconds_of(lambda: step(part), device))
    first_s, peak = min(probes, default=0.0), None
    steps, is_probe = [first_s], min(probes, default=0.0) > slow_after_s
    if not is_probe:
        first_s = turns.seconds_of(lambda: step(case.batch_size), device)
        for _ in range(0 if device.type == "cpu" else 20):
            turns.seconds_of(lambda: step(case.batch_size), device)
        steps = turns.timed(lambda: step(case.batch_size), device, for_s=case.turn_s)
        peak = turns.most_bytes(lambda: step(case.batch_size), device) - before  # not timed
    size = limits.GEMM_SIZE.get(device.type, 2048) if case.gemm_size is None else case.gemm_size
    limit = limits.gemm_rate(size, precision, device)
    compiled = "torch.compile" if setting.is_compiled else "eager"
    return Turn(steps, first_s, precision, f"torch, {compiled}", limit, peak, is_probe)


def load_all(model: nn.Module, tensors: dict[str, Tensor]) -> None:
    """Puts tensors in the place of parameters of the same names; those without one become zero."""
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.copy_(tensors[name]) if name in tensors else parameter.zero_()


def _relative(a: Tensor, b: Tensor, floor: float = 0.0) -> float:
    """Norm of the difference over the second norm, or over the floor where that is smaller."""
    return float((a.double() - b.double()).norm() / max(float(b.double().norm()), floor))


if __name__ == "__main__":
    turns.answer(run)
