"""The processes that torchrun starts to train one model: who this one is, what all agree on, how a model is spread.

A process is called a rank. Without torchrun there is one, and each function does what a single process does alone.
What ranks agree on (counts, errors, objects) travels by gloo between CPUs; gradients and weights of a GPU by NCCL.

Axes: R ranks.
"""

import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from datetime import timedelta
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch import distributed as dist
from torch.nn.modules.batchnorm import _BatchNorm  # pyright: ignore[reportPrivateUsage]
from torch.nn.parallel import DistributedDataParallel

from mixonomy.choices import Precision

TIMEOUT = timedelta(minutes=10)  # after which a rank that answers nothing is given up
AGREED = (ValueError, OSError, MemoryError)  # errors of which all ranks are told; others are faults of the program
T = TypeVar("T")
has_started = False  # whether this process has ever known of the other ranks; before, all do the same


class Failed(ValueError):
    """An error that this rank learned of from another, which says it; rank 0 says those of all others."""


class RankLost(ValueError):
    """Another rank is gone without a word: killed, or its machine is."""


def num_launched() -> int:
    """How many ranks torchrun started, also before they know of each other; 1 without torchrun."""
    return int(os.environ.get("WORLD_SIZE", "1")) if "MASTER_ADDR" in os.environ else 1


def launched_rank() -> int:
    """The number that torchrun gave this process, also while it does not know of the others; 0 without torchrun."""
    return int(os.environ.get("RANK", "0")) if num_launched() > 1 else 0


def rank() -> int:
    """The number of this rank, from 0; 0 while it works alone."""
    return dist.get_rank() if _is_started() else 0


def size() -> int:
    """R: how many ranks work together now."""
    return dist.get_world_size() if _is_started() else 1


def local_rank() -> int:
    """The number of this rank on its machine, from 0."""
    return int(os.environ.get("LOCAL_RANK", "0")) if num_launched() > 1 else 0


def local_size() -> int:
    """How many ranks are on this machine."""
    return int(os.environ.get("LOCAL_WORLD_SIZE", "1")) if num_launched() > 1 else 1


def only_alone(what: str) -> None:
    """Refuses what one process does.

    Raises:
      ValueError: under torchrun with several ranks.
    """
    if num_launched() > 1:
        raise ValueError(f"{what} runs in one process, and torchrun started {num_launched()}; leave torchrun out.")


def own_device(device: torch.device) -> torch.device:
    """The GPU of this rank, if the device is a GPU without a number; else the device as it is.

    Raises:
      ValueError: if ranks would share a GPU, or the device cannot work with others.
    """
    if num_launched() == 1:
        return device
    if device.type not in ("cpu", "cuda"):
        raise ValueError(f"several ranks train on cuda or cpu, not on {device.type}; give --device cpu.")
    if device.type == "cpu":
        return device
    if device.index is not None:
        raise ValueError(f"with several ranks each takes a GPU of its own; give --device cuda, not {device}.")
    if local_size() > torch.cuda.device_count():
        raise ValueError(
            f"{local_size()} ranks are on this machine and {torch.cuda.device_count()} GPUs; give torchrun "
            f"--nproc-per-node {torch.cuda.device_count()}."
        )
    torch.cuda.set_device(local_rank())
    return torch.device("cuda", local_rank())


@contextmanager
def started(device: torch.device) -> Iterator[None]:
    """Makes the ranks that torchrun started know of each other, until the end; does nothing for one.

    A group that the caller's program has made stays as it is.

    Raises:
      RankLost: in place of the error of torch, where another rank is gone.
    """
    if num_launched() == 1 or _is_started():
        yield
        return
    from mixonomy.rendezvous import fresh_store  # some builds of torch have no such stores

    global has_started
    backend = "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo"
    try:
        store, number, count = fresh_store(TIMEOUT)
        dist.init_process_group(backend, store=store, rank=number, world_size=count, timeout=TIMEOUT)
        has_started = True
        yield
    except RuntimeError as error:
        if not _is_of_a_lost_rank(error):
            raise
        raise RankLost(
            "another process of this run ended or cannot be reached; the same command goes on from the last checkpoint."
        ) from error
    finally:
        if _is_started():
            dist.destroy_process_group()


def part(count: int) -> slice:
    """Which of `count` things, such as the images of a batch, are this rank's: a stretch, at most one longer than any.

    Raises:
      ValueError: if a rank would have none.
    """
    if count < size():
        raise ValueError(
            f"{count} images of a batch are too few for {size()} ranks; give --batch-size {size()} or more."
        )
    return slice(count * rank() // size(), count * (rank() + 1) // size())


def gather(value: T) -> list[T]:
    """The values of all ranks, in their order, on each of them; they are pickled on the way."""
    if size() == 1:
        return [value]
    values: list[Any] = [None] * size()
    dist.all_gather_object(values, value)
    return values


def gather_numbers(numbers: Sequence[int]) -> list[list[int]]:
    """The int64 numbers of all ranks, as many of each: cheap enough for every step."""
    if size() == 1:
        return [list(numbers)]
    found = [torch.empty(len(numbers), dtype=torch.int64) for _ in range(size())]
    dist.all_gather(found, torch.tensor(numbers, dtype=torch.int64))
    return [of_rank.tolist() for of_rank in found]


def share(value: T) -> T:
    """The value of rank 0, on all ranks."""
    if size() == 1:
        return value
    values: list[Any] = [value]
    dist.broadcast_object_list(values)
    return values[0]


def share_tensors(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors of rank 0, all on the CPU, on all ranks; the others need bring none."""
    if size() == 1:
        return dict(tensors)
    shapes = share({name: (tensor.shape, tensor.dtype) for name, tensor in tensors.items()})
    found = {}
    for name, (shape, dtype) in shapes.items():
        tensor = tensors[name].contiguous() if rank() == 0 else torch.empty(shape, dtype=dtype)
        dist.broadcast(tensor.reshape(-1).view(torch.uint8) if tensor.numel() else torch.empty(1), 0)
        found[name] = tensor
    return found


def summed(values: Tensor) -> Tensor:
    """The sum over the ranks, element by element; of numbers that make no rounding error it is exact."""
    if size() > 1:
        values = values.clone()
        dist.all_reduce(values)
    return values


def passed_on(values: Tensor, *, to: int, source: int) -> Tensor:
    """Sends a tensor to one rank, and returns that of the same shape and type that came from another."""
    came = torch.empty_like(values)
    work = [dist.P2POp(dist.isend, values.contiguous(), to), dist.P2POp(dist.irecv, came, source)]
    for request in dist.batch_isend_irecv(work):
        request.wait()
    return came


def first(work: Callable[[], T]) -> T:
    """What `work` gives on rank 0, which does it alone, on all ranks; so for whatever reads or writes the run folder.

    Raises:
      Failed: on the other ranks, where it fails.
    """
    if size() == 1:
        return work()
    with together():
        value = work() if rank() == 0 else None
    return share(value)  # pyright: ignore[reportReturnType]


@contextmanager
def together() -> Iterator[None]:
    """Makes an error of any rank in here one of all: each waits for the others at the end.

    Raises:
      Failed: on the ranks that did without it; rank 0 names the rank.
    """
    error = None
    try:
        yield
    except AGREED as found:
        if size() == 1:
            raise
        error = found
    if size() > 1:
        fail_together(error)


def fail_together(error: Exception | None) -> None:
    """Raises this rank's error, or `Failed` where another rank has one; nothing where none has. A call of all ranks."""
    if not any(of_rank for (of_rank,) in gather_numbers([error is not None])):
        return
    said = gather(None if error is None else _said(error))
    if error is not None and rank() == 0:
        raise error
    for number, text in enumerate(said):
        if text is not None:
            raise Failed(text if number == 0 else f"on rank {number}: {text}") from error


def in_turn(own: Iterable[T]) -> Iterator[T]:
    """What all ranks make, in one order: the first of rank 0, the first of rank 1, ..., the second of rank 0 and so on.

    Each rank gets all of it, and may make as much as it likes. An error while one is made is an error of all.
    """
    if size() == 1:
        yield from own
        return
    making = iter(own)
    while True:
        error, made = None, None
        try:
            made = (next(making),)
        except StopIteration:
            pass
        except AGREED as found:
            error = found
        items = gather((made, error is not None))
        if any(is_failed for _, is_failed in items):
            fail_together(error)
        if all(item is None for item, _ in items):
            return
        yield from (item[0] for item, _ in items if item is not None)


def with_synced_norms(model: nn.Module, device: torch.device) -> nn.Module:
    """The model with a BatchNorm that takes its means over the batches of all ranks, where it has BatchNorm.

    Raises:
      ValueError: on a CPU, for which torch has no such layer.
    """
    if size() == 1 or not has_batch_norm(model):
        return model
    if device.type != "cuda":
        raise ValueError(
            f"this {type(model).__name__} has BatchNorm, whose means must be those of the whole batch, and torch has "
            f"that over several ranks (SyncBatchNorm) for GPUs only; train it in one process, or take a model without."
        )
    from timm.layers.norm_act import convert_sync_batchnorm  # knows timm's norms with an activation too; heavy

    return convert_sync_batchnorm(model)


def has_batch_norm(model: nn.Module) -> bool:
    """Whether some layer normalises over the batch."""
    return any(isinstance(module, _BatchNorm) for module in model.modules())


def replicated(model: nn.Module) -> nn.Module:
    """The model to call in training, whose gradients are summed over the ranks while they are computed (DDP).

    DDP divides the sum by R: a loss must be R times a rank's share of it. Weights become those of rank 0.
    """
    return DistributedDataParallel(model)


def sharded(model: nn.Module, device: torch.device, precision: Precision) -> nn.Module:
    """Leaves each rank a share of every weight, for good (FSDP2): blocks are put together one at a time, to be used.

    What is sharded as one is each module in a list named `blocks`, and the rest. With bf16, weights travel and are used
    as bfloat16; gradients are summed in float32 all the same, and divided by R as in `replicated`.
    """
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard

    mesh = init_device_mesh(device.type, (size(),))
    policy = MixedPrecisionPolicy(
        param_dtype=torch.bfloat16 if precision == "bf16" else None,
        reduce_dtype=torch.float32,
        cast_forward_inputs=False,
    )
    for name, module in list(model.named_modules()):
        if name.rpartition(".")[2] == "blocks" and isinstance(module, nn.Sequential | nn.ModuleList):
            for block in module:
                fully_shard(block, mesh=mesh, mp_policy=policy)
    fully_shard(model, mesh=mesh, mp_policy=policy)  # in place
    return model


def synced(model: nn.Module, *, is_last: bool) -> AbstractContextManager[object]:
    """The context of a forward and backward pass: gradients are summed over the ranks with the last piece."""
    if isinstance(model, DistributedDataParallel):
        return nullcontext() if is_last else model.no_sync()
    if hasattr(model, "set_requires_gradient_sync"):
        model.set_requires_gradient_sync(is_last)  # pyright: ignore[reportCallIssue]
    return nullcontext()


def whole(tensor: Tensor) -> Tensor:
    """A tensor of which each rank may have a share, put together on all of them. A call of all ranks."""
    return tensor.full_tensor() if _is_shared(tensor) else tensor  # pyright: ignore[reportAttributeAccessIssue]


def as_shared(tensor: Tensor, like: Tensor) -> Tensor:
    """This rank's share of a tensor that all have whole, where another one is shared, cut in the same way."""
    if not _is_shared(like) or tensor.shape != like.shape:  # the steps of AdamW are one number
        return tensor
    from torch.distributed.tensor import distribute_tensor

    mesh, placements = like.device_mesh, like.placements  # pyright: ignore[reportAttributeAccessIssue]
    return distribute_tensor(tensor, mesh, placements, src_data_rank=None)


def _is_shared(tensor: Tensor) -> bool:
    if not _is_started():  # the import takes its time, and one process has no such tensors
        return False
    from torch.distributed.tensor import DTensor

    return isinstance(tensor, DTensor)


def _said(error: Exception) -> str:
    if isinstance(error, OSError) and error.strerror:
        return f"{error.strerror}: {error.filename or ''}".rstrip(": ")
    return str(error) or type(error).__name__


def _is_started() -> bool:
    return dist.is_available() and dist.is_initialized()


def _is_of_a_lost_rank(error: RuntimeError) -> bool:
    """Whether an error of torch says that another rank does not answer."""
    said = str(error)
    return isinstance(error, dist.DistError) or "gloo" in said or "onnection closed by peer" in said
