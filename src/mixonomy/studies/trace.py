"""One forward pass of any model, taken apart: what each module multiplies, what it keeps, and how it was called."""

from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.utils._pytree import tree_map
from torch.utils.flop_counter import FlopCounterMode

from mixonomy.nn.modes import evaluation_mode


@dataclass(frozen=True)
class Call:
    """The first call of a module.

    Args:
      args, kwargs: as given, with INPUT in the places of the first tensor; other tensors are detached.
      shape: of the first tensor; None if there was none.
      parent: name of the module that called it; None for the model itself.
    """

    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    shape: tuple[int, ...] | None
    parent: str | None


@dataclass
class ModuleTrace:
    """What a module does itself; what its children do is in theirs.

    Args:
      call: None if it was never called.
      macs, activation_bytes: see `trace`.
      is_view: whether it gives back the memory that it got, perhaps in another shape.
    """

    call: Call | None = None
    macs: int = 0
    activation_bytes: int = 0
    is_view: bool = False


class _Input:
    """Stands for the first tensor in a recorded call; one object, copies included."""

    def __copy__(self) -> "_Input":
        return self

    def __deepcopy__(self, memo: dict[int, Any]) -> "_Input":
        return self


INPUT = _Input()


def trace(model: nn.Module, images: Tensor) -> dict[str, ModuleTrace]:
    """Runs the model once in evaluation mode, with gradients wanted for all parameters, and watches every module.

    Args:
      model: keeps its weights, its mode and its hooks.
      images: [B, c, H, W], of the model's dtype and on its device.
    Returns:
      By module name, "" for the model itself. `macs` are multiplications with addition in matrix products, convolutions
      and attention, half of what torch.utils.flop_counter counts; elementwise work, norms and pooling count as none.
      `activation_bytes` are the tensors that autograd keeps for the backward pass, each counted once, where it is
      first kept; parameters and buffers are not among them.
    """
    names = {id(module): name for name, module in model.named_modules()}
    traces = {name: ModuleTrace() for name in names.values()}
    parameters = {name: p.detach().requires_grad_(p.is_floating_point()) for name, p in model.named_parameters()}
    seen = {tensor.untyped_storage().data_ptr() for tensor in (*parameters.values(), *model.buffers())}
    kept: list[Tensor] = []  # so that no storage is freed and its address given to another
    counter = FlopCounterMode(display=False, custom_mapping={_CPU_ATTENTION: _attention_flops})
    stack: list[str] = []
    before: list[int] = [0]

    def settle() -> None:
        """Gives what was multiplied since the last call of this to the module that is running."""
        now = counter.get_total_flops()
        if stack:
            traces[stack[-1]].macs += (now - before[0]) // 2
        before[0] = now

    def enter(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        settle()
        name = names[id(module)]
        if traces[name].call is None:
            traces[name].call = _recorded(args, kwargs, stack[-1] if stack else None)
        stack.append(name)

    def leave(module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        settle()
        stack.pop()
        if args and isinstance(args[0], Tensor) and isinstance(output, Tensor):
            is_same = args[0].untyped_storage().data_ptr() == output.untyped_storage().data_ptr()
            traces[names[id(module)]].is_view = is_same

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in seen:
            seen.add(storage.data_ptr())
            kept.append(tensor)
            traces[stack[-1] if stack else ""].activation_bytes += storage.nbytes()
        return tensor

    with ExitStack() as context:
        for module in model.modules():
            context.callback(module.register_forward_pre_hook(enter, with_kwargs=True).remove)
            context.callback(module.register_forward_hook(leave).remove)
        context.enter_context(evaluation_mode(model))
        context.enter_context(torch.enable_grad())
        context.enter_context(torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor))
        context.enter_context(counter)
        functional_call(model, parameters, (images,))
    return traces


def _recorded(args: tuple[Any, ...], kwargs: dict[str, Any], parent: str | None) -> Call:
    found: list[Tensor] = []

    def record(value: Any) -> Any:
        if not isinstance(value, Tensor):
            return value
        if not found:
            found.append(value)
        return INPUT if value is found[0] else value.detach()

    args, kwargs = tree_map(record, (args, kwargs))
    return Call(args, kwargs, tuple(found[0].shape) if found else None, parent)


# torch counts its attention kernels for GPUs only.
_CPU_ATTENTION = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu


def _attention_flops(query: torch.Size, key: torch.Size, value: torch.Size, *_: Any, **__: Any) -> int:
    """Of Q K^T and its product with V; the shapes are [B, heads, S, C / heads].

    Source: torch.utils.flop_counter, sdpa_flop_count.
    """
    batch, heads, num_queries, dim = query
    return 2 * batch * heads * num_queries * key[2] * (dim + value[3])


def macs_of(model: nn.Module, channels: int, size: tuple[int, int]) -> int:
    """Multiplications with addition for one image of so many channels and (height, width), see `trace`."""
    return sum(each.macs for each in trace(model.cpu(), torch.zeros(1, channels, *size)).values())
