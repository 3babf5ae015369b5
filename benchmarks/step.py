"""One turn of one setting of benchmarks/train.py, in a process of its own: a training step of our Mixer or of timm's.

    python benchmarks/step.py '{"case": "cifar", "setting": "timm, fp32", "device": "cpu", "slow_after_s": 60}'

prints one JSON object; without a setting it compares loss and gradients of the two libraries instead.

Axes: B images, H and W pixels, K classes.
"""

import json
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any, Literal

import torch
from torch import Tensor, nn

from mixonomy import devices, optim
from mixonomy.models import create_from
from mixonomy.models.mixer import SPECS
from mixonomy.recipe import Model
from mixonomy.recipes.cifar10 import recipe as cifar10

RELATIVE_TOLERANCE = 1e-4  # of loss and gradients in float32
CHECKED_IMAGES = 8
PROBE_SHARE = 8  # the first step sees one image in so many


@dataclass(frozen=True)
class Setting:
    """Who trains in which precision; `is_prepared`: as `mixonomy train` does, with `devices.prepare`."""

    library: Literal["timm", "ours"]
    precision: Literal["auto", "fp32", "bf16"]
    is_prepared: bool = False


@dataclass(frozen=True)
class Case:
    """A model and a batch; `turn_s` is the time that the timed steps of one turn fill, at least two steps."""

    model: Model
    image_size: int
    batch_size: int
    num_classes: int
    turn_s: float
    gemm_size: int = 2048


# The first is timm's default, the yardstick; the third is what a user of mixonomy gets.
SETTINGS = {
    "timm, fp32": Setting("timm", "fp32"),
    "timm, bf16 autocast": Setting("timm", "bf16"),
    "ours, as mixonomy train": Setting("ours", "auto", is_prepared=True),
    "ours, fp32": Setting("ours", "fp32"),
    "ours, bf16 autocast": Setting("ours", "bf16"),
}
_TINY = Model(patch_size=4, hidden_dim=32, num_blocks=2, tokens_mlp_dim=16, channels_mlp_dim=64, gelu="erf")
CASES = {  # "tiny" only shows that the benchmark works
    "cifar": Case(cifar10.model, cifar10.height_width[0], cifar10.batch_size, num_classes=10, turn_s=10),
    "mixer-s/16": Case(Model(name="mixer-s/16", gelu="erf"), 224, 32, num_classes=1000, turn_s=20),
    "tiny": Case(_TINY, 16, 8, num_classes=10, turn_s=0, gemm_size=128),
}


def build(name: str, library: Literal["timm", "ours"]) -> nn.Module:
    """A case's model of a library, freshly initialised on the CPU; the sizes are equal.

    The head, zero in both libraries, is drawn too: from a zero head no gradient would reach the blocks.
    """
    case = CASES[name]
    torch.manual_seed(0)
    if library == "ours":
        size = (case.image_size, case.image_size)
        model = create_from(case.model, num_classes=case.num_classes, image_size=size, in_channels=3)
    else:
        from timm.models.mlp_mixer import MlpMixer

        spec = SPECS.get(case.model.name, case.model)
        assert spec.hidden_dim and spec.tokens_mlp_dim and spec.channels_mlp_dim and spec.patch_size and spec.num_blocks
        model = MlpMixer(
            num_classes=case.num_classes,
            img_size=case.image_size,
            patch_size=spec.patch_size,
            num_blocks=spec.num_blocks,
            embed_dim=spec.hidden_dim,
            mlp_ratio=(spec.tokens_mlp_dim / spec.hidden_dim, spec.channels_mlp_dim / spec.hidden_dim),
        )
    assert isinstance(model.head, nn.Linear)
    nn.init.normal_(model.head.weight, std=0.02)
    return model


def timm_name(name: str) -> str:
    """timm's name of one of our parameters."""
    return name.replace("token_mixer", "mlp_tokens").replace("channel_mixer", "mlp_channels")


def batch(name: str, device: torch.device) -> tuple[Tensor, Tensor]:
    """Random images [B, 3, H, W] and smoothed targets [B, K] of a case, the same at every call."""
    case, generator = CASES[name], torch.Generator().manual_seed(1)
    images = torch.randn(case.batch_size, 3, case.image_size, case.image_size, generator=generator)
    labels = torch.randint(case.num_classes, (case.batch_size,), generator=generator)
    return images.to(device), optim.soft_targets(labels, case.num_classes, 0.1).to(device)


def check(name: str, device: torch.device) -> dict[str, Any]:
    """Compares loss and gradients in float32; returns the FLOPs of a training step and the largest difference.

    Raises:
      ValueError: if the two models do not compute the same.
    """
    from torch.utils.flop_counter import FlopCounterMode

    ours, timms = build(name, "ours").to(device), build(name, "timm").to(device)
    timms.load_state_dict({timm_name(key): value for key, value in ours.state_dict().items()})
    images, targets = batch(name, device)
    images, targets = images[:CHECKED_IMAGES], targets[:CHECKED_IMAGES]
    losses = [optim.classification_loss(model(images), targets, "softmax") for model in (ours, timms)]
    for loss in losses:
        loss.backward()
    theirs = dict(timms.named_parameters())
    differences = {"loss": _relative(losses[0], losses[1])}
    for key, parameter in ours.named_parameters():
        differences[f"gradient of {key}"] = _relative(parameter.grad, theirs[timm_name(key)].grad)
    worst = max(differences, key=lambda key: differences[key])
    if not differences[worst] <= RELATIVE_TOLERANCE:
        raise ValueError(f"{name}: ours and timm's differ: {worst} by {differences[worst]:.1e} (relative).")
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        ours(images[:1])
    # Backward multiplies twice as often as forward: once for the inputs' gradient, once for the weights'.
    flops = 3 * counter.get_total_flops() * CASES[name].batch_size
    return {"flops": flops, "params": sum(p.numel() for p in ours.parameters()), "difference": differences[worst]}


def training_step(name: str, setting: Setting, device: torch.device) -> Callable[[int], None]:
    """Builds a case's model, batch and optimizer; the function does one step on the first images of the batch."""
    precision = devices.resolve_precision(setting.precision, device)
    model = build(name, setting.library).to(device).train()
    images, targets = batch(name, device)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, fused=True)

    def step(num_images: int) -> None:
        with devices.autocast(device, precision):
            logits = model(images[:num_images])
        optim.classification_loss(logits, targets[:num_images], "softmax").backward()
        optimizer.step()
        optimizer.zero_grad()

    return step


def measure(name: str, setting: Setting, device: torch.device, slow_after_s: float) -> dict[str, Any]:
    """One turn of one setting: step times, peak memory and the GEMM rate, in this process.

    Args:
      slow_after_s: if a step on an eighth of the batch takes an eighth of this, twice, no whole one follows (emulated
        bfloat16 would take many minutes): "is_probe" says so, "steps" holds eight times its seconds, "peak" is None.
    """
    case, precision = CASES[name], devices.resolve_precision(setting.precision, device)
    if setting.is_prepared:
        devices.prepare(device)
    training_step("tiny", setting, device)(1)  # loads what a first step loads: neither time nor memory of the model
    before = held_bytes(device)
    step = training_step(name, setting, device)
    steps: list[float] = []
    while len(steps) < 2 and min(steps, default=slow_after_s + 1) > slow_after_s:
        steps.append(PROBE_SHARE * _seconds(lambda: step(case.batch_size // PROBE_SHARE), device))
    steps, is_probe, peak = [min(steps)], min(steps) > slow_after_s, None
    if not is_probe:
        for _ in range(1 if device.type == "cpu" else 20):
            _seconds(lambda: step(case.batch_size), device)
        steps, start = [], time.perf_counter()
        while len(steps) < 2 or time.perf_counter() - start < case.turn_s:
            steps.append(_seconds(lambda: step(case.batch_size), device))
        peak = most_bytes(lambda: step(case.batch_size), device) - before  # not timed
    gemm = gemm_rate(case.gemm_size * (1 if device.type == "cpu" else 4), precision, device)
    return {"steps": steps, "is_probe": is_probe, "peak": peak, "gemm": gemm, "precision": precision}


def held_bytes(device: torch.device) -> int:
    """What torch has allocated on a GPU, else this process's anonymous resident memory.

    The whole resident set (ru_maxrss) would count mapped library files too, which the kernel drops when it likes.
    """
    if device.type == "cuda":
        return torch.cuda.memory_allocated()
    status = Path("/proc/self/status")
    if not status.exists():
        raise ValueError("memory is read from /proc/self/status, which only Linux has; run this benchmark on Linux.")
    [kibibytes] = [line.split()[1] for line in status.read_text().splitlines() if line.startswith("RssAnon:")]
    return 1024 * int(kibibytes)


def most_bytes(function: Callable[[], object], device: torch.device) -> int:
    """The largest `held_bytes` while the function runs; on a CPU looked at every two milliseconds."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
        _seconds(function, device)
        return torch.cuda.max_memory_allocated()
    seen, is_done = [held_bytes(device)], threading.Event()

    def watch() -> None:
        while not is_done.wait(0.002):
            seen.append(held_bytes(device))

    watcher = threading.Thread(target=watch)
    watcher.start()
    function()
    is_done.set()
    watcher.join()
    return max(seen)


def gemm_rate(size: int, precision: devices.Precision, device: torch.device) -> float:
    """FLOP/s of the product of two square matrices, the median of five; of a smaller one where that is slow."""
    dtype = torch.bfloat16 if precision == "bf16" else torch.float32
    small = min(size, 512)
    for n in (small, size):
        a, b, c = (torch.randn(n, n, device=device).to(dtype) for _ in range(3))
        _seconds(lambda a=a, b=b, c=c: torch.mm(a, b, out=c), device)
        rate = 2 * n**3 / median(_seconds(lambda a=a, b=b, c=c: torch.mm(a, b, out=c), device) for _ in range(5))
        if 2 * size**3 / rate > 2:  # seconds
            break
    return rate


def _seconds(function: Callable[[], object], device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize()
    start = time.perf_counter()
    function()
    if device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - start


def _relative(a: Tensor | None, b: Tensor | None) -> float:
    assert a is not None and b is not None
    return float((a.detach() - b.detach()).norm() / b.detach().norm())


def run(task: dict[str, Any]) -> dict[str, Any]:
    """Does a task, in this process: keys case, device and, for a turn and no check, setting and slow_after_s."""
    device = devices.resolve_device(task["device"])
    if task.get("setting") is None:
        return check(task["case"], device)
    return measure(task["case"], SETTINGS[task["setting"]], device, task["slow_after_s"])


if __name__ == "__main__":
    print(json.dumps(run(json.loads(sys.argv[1]))))
