"""Several ranks for a test, each a process of its own, as torchrun starts them but faster."""

import multiprocessing
import os
from collections.abc import Callable
from typing import Any

from torch import distributed as dist

SECONDS = 300  # after which ranks that do not end are a failure

_context = multiprocessing.get_context("forkserver")
_context.set_forkserver_preload(["mixonomy.api", "torch.distributed.fsdp", "torch.distributed.tensor"])


def environment(rank: int, size: int, port: int) -> dict[str, str]:
    """What torchrun tells a process."""
    numbers = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": size, "LOCAL_WORLD_SIZE": size, "MASTER_PORT": port}
    return {"MASTER_ADDR": "127.0.0.1", **{name: str(value) for name, value in numbers.items()}}


def in_ranks(size: int, work: Callable[..., Any], *arguments: Any, store_port: int | None = None) -> list[Any]:
    """What `work` returns on each rank, or the exception that it raises there; None of one that is killed.

    Args:
      store_port: where the store of an earlier start still is, as torchrun keeps it; one is made if not given.
    """
    if store_port is None:  # bound as long as the ranks live; a number that is merely free may be another's by then
        store = dist.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
        return in_ranks(size, work, *arguments, store_port=store.port)
    processes = []
    for rank in range(size):
        ours, theirs = _context.Pipe(duplex=False)
        variables = environment(rank, size, store_port) | {"TORCHELASTIC_USE_AGENT_STORE": "True"}
        process = _context.Process(target=_as_rank, args=(theirs, variables, work, arguments))
        process.start()
        theirs.close()
        processes.append((process, ours))
    found = []
    for process, ours in processes:
        if not ours.poll(SECONDS):
            for each, _ in processes:
                each.kill()
            raise TimeoutError(f"{size} ranks did not end within {SECONDS} seconds")
        try:
            found.append(ours.recv())
        except EOFError:  # it is gone
            found.append(None)
        process.join(SECONDS)
    return found


def _as_rank(to: Any, variables: dict[str, str], work: Callable[..., Any], arguments: tuple[Any, ...]) -> None:
    os.environ.update(variables)
    try:
        found = work(*arguments)
    except Exception as error:
        found = error
    to.send(found)
