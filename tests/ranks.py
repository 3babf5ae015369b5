"""Several ranks for a test, each a process of its own, as torchrun starts them but faster."""

import multiprocessing
import os
import socket
from collections.abc import Callable
from typing import Any

SECONDS = 300  # after which ranks that do not end are a failure

_context = multiprocessing.get_context("forkserver")
_context.set_forkserver_preload(["mixonomy.api", "torch.distributed.fsdp", "torch.distributed.tensor"])


def environment(rank: int, size: int, port: int) -> dict[str, str]:
    """What torchrun tells a process."""
    numbers = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": size, "LOCAL_WORLD_SIZE": size, "MASTER_PORT": port}
    return {"MASTER_ADDR": "127.0.0.1", **{name: str(value) for name, value in numbers.items()}}


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]


def in_ranks(size: int, work: Callable[..., Any], *arguments: Any, store_port: int | None = None) -> list[Any]:
    """What `work` returns on each rank, or the exception that it raises there; None of one that is killed.

    Args:
      store_port: where the store of an earlier start still is, as torchrun keeps it; rank 0 has one if not given.
    """
    port, processes = store_port or free_port(), []
    for rank in range(size):
        ours, theirs = _context.Pipe(duplex=False)
        variables = environment(rank, size, port) | {"TORCHELASTIC_USE_AGENT_STORE": str(store_port is not None)}
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
