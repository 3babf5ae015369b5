"""Optimizers from torch, with the recipe's split of parameters into groups."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from mixonomy.optim.muon import Muon
from mixonomy.recipe import Optim

# What None in a recipe stands for.
LR = {"adamw": 1e-3, "sgd": 0.03, "muon": 0.02}  # paper, table 4 and section 4.1; benchmarks for Muon
BETAS = (0.9, 0.999)  # MLP-Mixer paper, section 3
SGD_MOMENTUM = 0.9  # MLP-Mixer paper, section 3 (fine-tuning)
MUON_MOMENTUM = 0.95  # torch.optim.Muon's default
MUON_REST_LR = 1e-3


def make_optimizers(model: nn.Module, config: Optim) -> Sequence[torch.optim.Optimizer]:
    """The optimizers of a recipe; each group carries its peak rate as "peak_lr".

    Weight decay acts on matrices and kernels (two axes or more) only, and is multiplied by the learning rate.

    Source for the decay mask: big_vision optax.py (the default mask `.*/kernel$`).
    """
    lr = LR[config.name] if config.lr is None else config.lr
    named = [(name, p) for name, p in model.named_parameters() if p.requires_grad]
    if config.name == "muon":
        matrices = [(name, p) for name, p in named if _is_block_matrix(name, p)]
        if not matrices:
            raise ValueError("muon needs matrices in a part named `blocks`, and this model has none; use adamw or sgd.")
        taken = {name for name, _ in matrices}
        rest = [(name, p) for name, p in named if name not in taken]
        muon = Muon(
            [{"params": [p for _, p in matrices], "peak_lr": lr}],
            lr=lr,
            weight_decay=config.weight_decay,
            momentum=MUON_MOMENTUM if config.momentum is None else config.momentum,
        )
        return [muon, _adamw(rest, config, MUON_REST_LR if config.rest_lr is None else config.rest_lr)]
    if config.name == "adamw":
        return [_adamw(named, config, lr)]
    momentum = SGD_MOMENTUM if config.momentum is None else config.momentum
    return [torch.optim.SGD(_groups(named, config.weight_decay, lr), lr=lr, momentum=momentum)]


def set_lr(optimizers: Sequence[torch.optim.Optimizer], factor: float) -> None:
    """Sets every group's learning rate to `factor` times its peak."""
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            group["lr"] = group["peak_lr"] * factor


def _adamw(named: Sequence[tuple[str, Tensor]], config: Optim, lr: float) -> torch.optim.AdamW:
    beta1, beta2 = BETAS
    betas = (beta1 if config.beta1 is None else config.beta1, beta2 if config.beta2 is None else config.beta2)
    return torch.optim.AdamW(_groups(named, config.weight_decay, lr), lr=lr, betas=betas, fused=True)


def _groups(named: Sequence[tuple[str, Tensor]], weight_decay: float, lr: float) -> list[dict]:
    kernels = [p for _, p in named if p.ndim >= 2]
    others = [p for _, p in named if p.ndim < 2]
    groups = [(kernels, weight_decay), (others, 0.0)]
    return [{"params": params, "weight_decay": decay, "peak_lr": lr} for params, decay in groups if params]


def _is_block_matrix(name: str, parameter: Tensor) -> bool:
    """Muon is for hidden matrices; the first and last layer train better by AdamW (Keller Jordan's Muon notes)."""
    return parameter.ndim == 2 and "blocks." in name
