"""Optimizers from torch, with the recipe's split of parameters into groups."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from mixonomy.optim.layer_decay import layer_scales
from mixonomy.optim.muon import Muon
from mixonomy.recipe import Optim

# What None in a recipe stands for.
LR = {"adamw": 1e-3, "sgd": 0.03, "muon": 0.02}  # paper, table 4 and section 4.1; benchmarks for Muon
BETAS = (0.9, 0.999)  # MLP-Mixer paper, section 3
SGD_MOMENTUM = 0.9  # MLP-Mixer paper, section 3 (fine-tuning)
MUON_MOMENTUM = 0.95  # torch.optim.Muon's default
MUON_REST_LR = 1e-3
POSITIONS = ("positions", "pos_embed")  # tables of positions, ours and timm's


class _Weight(NamedTuple):
    """A parameter, its name, and its share of the learning rate."""

    name: str
    parameter: Tensor
    scale: float


def peak_lr(config: Optim) -> float:
    """The peak learning rate (for muon: of the matrices), before any layer's share of it."""
    return LR[config.name] if config.lr is None else config.lr


def peak_rest_lr(config: Optim) -> float | None:
    """For muon: peak learning rate of what AdamW trains; None for the others."""
    if config.name != "muon":
        return None
    return MUON_REST_LR if config.rest_lr is None else config.rest_lr


def make_optimizers(model: nn.Module, config: Optim) -> Sequence[torch.optim.Optimizer]:
    """The optimizers of a recipe; each group carries its peak rate as "peak_lr".

    Weight decay acts on matrices and kernels only, see `_decays`, and is multiplied by the group's learning rate. Muon
    takes the matrices and the patch embedding, see `_matrices`; all else is AdamW's.

    Raises:
      ValueError: if muon finds no matrices in blocks, or `layer_decay` no blocks.
    Source for the decay mask: big_vision optax.py (the default mask `.*/kernel$`).
    """
    lr, rest_lr = peak_lr(config), peak_rest_lr(config)
    named = dict(model.named_parameters())
    scales = dict.fromkeys(named, 1.0) if config.layer_decay is None else layer_scales(named, config.layer_decay)
    weights = [_Weight(name, p, scales[name]) for name, p in named.items() if p.requires_grad]
    if rest_lr is not None:
        names = _matrices(model)
        if not any("blocks." in name for name in names):
            raise ValueError(
                "muon needs matrices in a part named `blocks`, and this model has none (kernels of convolutions are no "
                "matrices); use adamw or sgd."
            )
        matrices = [weight for weight in weights if weight.name in names]
        rest = [weight for weight in weights if weight.name not in names]
        momentum = MUON_MOMENTUM if config.momentum is None else config.momentum
        muon = Muon(_groups(matrices, config.weight_decay, lr), lr=lr, momentum=momentum)
        return [muon, _adamw(rest, config, rest_lr)]
    if config.name == "adamw":
        return [_adamw(weights, config, lr)]
    momentum = SGD_MOMENTUM if config.momentum is None else config.momentum
    return [torch.optim.SGD(_groups(weights, config.weight_decay, lr), lr=lr, momentum=momentum)]


def set_lr(optimizers: Sequence[torch.optim.Optimizer], factor: float) -> None:
    """Sets every group's learning rate to `factor` times its peak."""
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            group["lr"] = group["peak_lr"] * factor


def _adamw(weights: Sequence[_Weight], config: Optim, lr: float) -> torch.optim.AdamW:
    beta1, beta2 = BETAS
    betas = (beta1 if config.beta1 is None else config.beta1, beta2 if config.beta2 is None else config.beta2)
    return torch.optim.AdamW(_groups(weights, config.weight_decay, lr), lr=lr, betas=betas, fused=True)


def _groups(weights: Sequence[_Weight], weight_decay: float, lr: float) -> list[dict[str, Any]]:
    """For each learning rate, a group of kernels, which decay, and a group of the rest."""
    groups: dict[tuple[float, bool], list[Tensor]] = {}
    for weight in weights:
        groups.setdefault((lr * weight.scale, _decays(weight)), []).append(weight.parameter)
    return [
        {"params": params, "weight_decay": weight_decay if is_kernel else 0.0, "lr": rate, "peak_lr": rate}
        for (rate, is_kernel), params in groups.items()
    ]


def _decays(weight: _Weight) -> bool:
    """Whether it is a matrix or a kernel, and no vector in disguise, nor a table of positions.

    NFNets keep the gain of each kernel as [C, 1, 1, 1] and timm's ResMLP its scales as [1, 1, C]: like those of norms,
    they do not decay.
    """
    shape = weight.parameter.shape
    return weight.name.rpartition(".")[2] not in POSITIONS and (
        len(shape) == 2 or sum(length > 1 for length in shape) >= 2
    )


def _matrices(model: nn.Module) -> set[str]:
    """Names of the matrices but tables of positions, and of the kernels of patch embeddings, which are matrices too.

    A patch embedding is a convolution whose windows of several pixels neither overlap nor leave gaps. Keller Jordan
    ("Muon", 2024) leaves the first and the last layer to AdamW; Mixers learn faster when Muon has them
    (results/whole_runs.jsonl).
    """
    matrices = {
        name for name, p in model.named_parameters() if p.ndim == 2 and name.rpartition(".")[2] not in POSITIONS
    }
    embeddings = {
        f"{name}.weight"
        for name, module in model.named_modules()
        if isinstance(module, nn.Conv2d) and module.groups == 1 and module.stride == module.kernel_size != (1, 1)
    }
    return matrices | embeddings
