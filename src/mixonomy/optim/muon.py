"""torch's Muon, with its orthogonalisation done for all matrices of one shape at once, and for patch embeddings too.

torch.optim.Muon orthogonalises one matrix after the other, always in bfloat16. Many small products are slow on a
GPU, and bfloat16 is emulated on most CPUs: there it took longer than the rest of the training step
(`benchmarks/muon.py`). It also refuses kernels, and that of a patch embedding is a matrix written with four axes. The
update rule and its state are torch's.

Axes: n matrices of one shape, r rows, c columns.
"""

import math

import torch
from torch import Tensor
from torch.optim.optimizer import ParamsT

from mixonomy import parallel

# Quintic whose iteration brings singular values near 1; defaults of torch.optim.Muon (Keller Jordan 2024, "Muon").
COEFFICIENTS = (3.4445, -4.775, 2.0315)
ITERATIONS = 5


def orthogonalise(matrices: Tensor, eps: float = 1e-7) -> Tensor:
    """Replaces the singular values of each matrix by values near 1 (Newton-Schulz iteration).

    Args:
      matrices: float32 [n, r, c].
    Returns:
      [n, r, c] in the dtype of the computation: bfloat16 on a GPU, float32 on a CPU.
    """
    x = matrices.bfloat16() if matrices.device.type == "cuda" else matrices
    tall = x.shape[1] > x.shape[2]
    x = x.transpose(1, 2) if tall else x
    x = x / x.flatten(1).norm(dim=1).clamp(min=eps).view(-1, 1, 1)
    a, b, c = COEFFICIENTS
    for _ in range(ITERATIONS):
        gram = x @ x.transpose(1, 2)  # [n, min(r, c), min(r, c)]
        x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return x.transpose(1, 2) if tall else x


class Muon(torch.optim.Optimizer):
    """Momentum, orthogonalised, with decoupled weight decay; for matrices.

    Args:
      params: matrices [r, c], and kernels [r, ...], which are taken as [r, c].
      lr: of a step whose singular values are near 1, times sqrt(max(1, r / c)).
      weight_decay: multiplied by the learning rate.
      momentum: of the average of gradients, taken with Nesterov's look-ahead.
    Source: torch/optim/_muon.py.
    """

    def __init__(self, params: ParamsT, lr: float, weight_decay: float = 0.0, momentum: float = 0.95):
        super().__init__(params, {"lr": lr, "weight_decay": weight_decay, "momentum": momentum})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:
        """One update of all matrices that have a gradient."""
        assert closure is None, "this optimizer takes no closure"
        for group in self.param_groups:
            by_shape: dict[torch.Size, list[Tensor]] = {}
            for parameter in group["params"]:
                if parameter.grad is not None:
                    by_shape.setdefault(parameter.shape, []).append(parameter)
            for shape, parameters in by_shape.items():
                # Of weights in shares each rank puts the directions together: a share of a matrix has no such update.
                directions = [parallel.whole(self._direction(p, group["momentum"])) for p in parameters]
                updates = orthogonalise(torch.stack(directions).flatten(2)).view(-1, *shape)
                scale = math.sqrt(max(1.0, shape[0] / shape[1:].numel()))
                for parameter, update in zip(parameters, updates, strict=True):
                    parameter.mul_(1.0 - group["lr"] * group["weight_decay"])
                    parameter.add_(parallel.as_shared(update, parameter), alpha=-group["lr"] * scale)

    def _direction(self, parameter: Tensor, momentum: float) -> Tensor:
        """Nesterov's look-ahead of the averaged gradient."""
        state = self.state[parameter]
        if "momentum_buffer" not in state:
            state["momentum_buffer"] = torch.zeros_like(parameter)
        buffer = state["momentum_buffer"]
        assert parameter.grad is not None
        buffer.lerp_(parameter.grad, 1.0 - momentum)
        return parameter.grad.lerp(buffer, momentum)
