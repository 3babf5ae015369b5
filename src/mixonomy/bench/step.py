"""One training step of a model, ours or another library's, from uint8 images on the device to changed weights.

Axes: B images, H and W pixels.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from mixonomy import devices, optim
from mixonomy.bench.peers import lucidrains_twin, randomise, timm_twin
from mixonomy.models import create
from mixonomy.train_state import TrainState

LABEL_SMOOTHING = 0.1
WEIGHT_DECAY = 0.1
CHECK_LR = 1024.0  # a power of two, large: then what a weight moved by has all digits of the gradient
TINY = {"patch_size": 4, "hidden_dim": 8, "num_blocks": 1, "tokens_mlp_dim": 4, "channels_mlp_dim": 8}


@dataclass(frozen=True)
class Setting:
    """Who trains, in which precision ("auto": what `mixonomy train` takes), compiled or not.

    Args:
      accumulate, checkpoint_blocks: for ours, as in a recipe.
    """

    library: Literal["ours", "timm", "lucidrains"]
    precision: Literal["auto", "fp32", "bf16"]
    is_compiled: bool = False
    accumulate: int = 1
    checkpoint_blocks: bool = False


@dataclass(frozen=True)
class Case:
    """A model and a batch.

    Args:
      model: arguments of `mixonomy.create` without image_size and num_classes.
      turn_s: what the timed steps of one turn fill, at least two steps.
      gemm_size: of the matrices whose product is the limit; limits.GEMM_SIZE if None.
    """

    model: dict[str, Any]
    image_size: tuple[int, int]
    batch_size: int
    num_classes: int
    turn_s: float = 10.0
    gemm_size: int | None = None


def build(case: Case) -> nn.Module:
    """Our model, in training mode on the CPU; the same weights at every call, none of them zero."""
    torch.manual_seed(0)
    model = create(num_classes=case.num_classes, image_size=case.image_size, **case.model)
    randomise(model, seed=0)
    return model.train()


def batch(case: Case, device: torch.device) -> tuple[Tensor, Tensor]:
    """Random uint8 images [B, c, H, W] and labels int64 [B], the same at every call."""
    generator = torch.Generator().manual_seed(1)
    shape = (case.batch_size, case.model.get("in_channels", 3), *case.image_size)
    images = torch.randint(256, shape, generator=generator, dtype=torch.uint8)
    labels = torch.randint(case.num_classes, (case.batch_size,), generator=generator)
    return images.to(device), labels.to(device)


def twin(model: nn.Module, setting: Setting) -> nn.Module:
    """The library's model with our weights."""
    return {"ours": lambda m: m, "timm": timm_twin, "lucidrains": lucidrains_twin}[setting.library](model)


def training_step(
    case: Case, setting: Setting, device: torch.device, model: nn.Module, *, is_checked: bool = False
) -> Callable[[int], Tensor]:
    """The function that does one step on the first images of the batch and returns the loss.

    Args:
      model: of the setting's library, on the device.
      is_checked: plain SGD in the place of AdamW, at CHECK_LR.
    """
    precision = devices.resolve_precision(setting.precision, device)
    images, labels = batch(case, device)
    if setting.library == "ours":
        return _our_step(case, setting, precision, device, model, images, labels, is_checked=is_checked)
    optimizer = (
        torch.optim.SGD(model.parameters(), lr=CHECK_LR)
        if is_checked
        else torch.optim.AdamW(model.parameters(), lr=1e-4, weight_decay=WEIGHT_DECAY, fused=True)
    )
    forward: Any = torch.compile(model) if setting.is_compiled else model

    def step(num_images: int) -> Tensor:
        x = normalised(images[:num_images], torch.float32)
        targets = optim.soft_targets(labels[:num_images], case.num_classes, LABEL_SMOOTHING)
        with devices.autocast(device, precision):
            logits = forward(x)
        loss = optim.classification_loss(logits, targets, "softmax")
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        return loss.detach()

    return step


def _our_step(
    case: Case,
    setting: Setting,
    precision: devices.Precision,
    device: torch.device,
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    *,
    is_checked: bool,
) -> Callable[[int], Tensor]:
    """The step of `mixonomy train`."""
    import numpy as np

    from mixonomy.data import Batch
    from mixonomy.models import info_of
    from mixonomy.recipe import Optim, Recipe

    sgd = {"name": "sgd", "lr": CHECK_LR, "momentum": 0.0}
    adamw = {"name": "adamw", "lr": 1e-4, "weight_decay": WEIGHT_DECAY}
    memory = {"accumulate": setting.accumulate, "checkpoint_blocks": setting.checkpoint_blocks}
    config = {**(sgd if is_checked else adamw), **memory, "schedule": "constant", "warmup": "0 steps"}
    recipe = Recipe(
        image_size=case.image_size,
        optim=Optim.model_validate(config),
        batch_size=case.batch_size,
        label_smoothing=LABEL_SMOOTHING,
        precision=precision,
        compile=setting.is_compiled,
    )
    preprocessing = info_of(model).preprocessing
    state = TrainState(
        recipe, model, preprocessing, case.num_classes, device, precision, total=1000, warmup=0, loss="softmax"
    )
    keys = np.arange(case.batch_size, dtype=np.uint64)
    return lambda num: state.step(Batch(images[:num], labels[:num], keys[:num]), 0)


def normalised(images: Tensor, dtype: torch.dtype) -> Tensor:
    """uint8 -> float in [-1, 1]."""
    return images.to(dtype) / 127.5 - 1.0
