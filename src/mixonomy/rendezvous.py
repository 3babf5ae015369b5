"""How ranks that torchrun starts meet: in keys of the store that no earlier start has used.

torchrun keeps one store, a table of names and bytes in its own process, over all its restarts. What a rank left there
that is gone, such as the address at which it listened, is found there by those that come after it. So a rank that is
early would call somebody who is dead.
"""

import hashlib
import secrets
import time
from datetime import timedelta

from torch.distributed import DistStoreError, PrefixStore, Store, rendezvous  # pyright: ignore[reportPrivateImportUsage]

POLL_S = 0.05


def fresh_store(timeout: timedelta) -> tuple[Store, int, int]:
    """The store of this start, the number of this rank, and how many there are.

    Raises:
      DistError: if the others do not come in time, or the store cannot be reached.
    """
    store, rank, size = next(rendezvous("env://", timeout=timeout))
    store.set_timeout(timeout)
    return PrefixStore(name_of_start(store, rank, size, timeout), store), rank, size


def name_of_start(store: Store, rank: int, size: int, timeout: timedelta) -> str:
    """A name that these ranks agree on, and no ranks before them.

    Each draws a number and writes it down. Rank 0 reads all of them, of which some may be left from an earlier start,
    and writes what it has read. Who finds the own number there says so; once all have said so, nothing was left over.

    Raises:
      DistStoreError: if the others do not come in time.
    """
    own = secrets.token_hex(8)
    store.set(f"meeting/number/{rank}", own)
    last = time.monotonic() + timeout.total_seconds()
    name = ""
    while time.monotonic() < last:
        numbers = _read(store, [f"meeting/number/{other}" for other in range(size)])
        if rank == 0 and numbers is not None and name != _name(numbers):
            name = _name(numbers)
            store.set("meeting/numbers", " ".join(numbers))
        if rank > 0 and (found := _read(store, ["meeting/numbers"])) is not None and own in found[0].split():
            name = _name(found[0].split())
            store.set(f"{name}/seen/{rank}", "")
        if name and rank == 0 and store.check([f"{name}/seen/{other}" for other in range(1, size)]):
            store.set(f"{name}/complete", "")
        if name and store.check([f"{name}/complete"]):
            return name
        time.sleep(POLL_S)
    raise DistStoreError(f"not all {size} ranks came within {timeout}")


def _name(numbers: list[str]) -> str:
    return "start-" + hashlib.sha256(" ".join(numbers).encode()).hexdigest()[:16]


def _read(store: Store, keys: list[str]) -> list[str] | None:
    """What stands there; None where one of them is missing, for which `get` would wait."""
    return [store.get(key).decode() for key in keys] if store.check(keys) else None
