"""How processes that were started together find out that all of them have come.

torchrun keeps its store when it starts a run again, with the addresses of the dead in it, and its
agents may count their restarts differently. So the living agree on a name that no rendezvous had
before, and put everything that they tell each other under it.
"""

from __future__ import annotations

import hashlib
import time
import uuid
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch.distributed import Store

POLL_SECONDS = 0.02  # seconds between two looks


def agreed_name(store: Store, rank: int, world_size: int, seconds: float) -> str:
    """The same new name in each of ``world_size`` processes.

    Every rank writes who it is; the first one writes the list of all, and once each has signed a
    list with itself in it, which none of the dead can have done, that list counts.

    Raises:
        TimeoutError: they have not all come after so many seconds.
    """
    me = uuid.uuid4().hex
    store.set(f"neupol/here/{rank}", me)
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        name = _proposed(store, world_size) if rank == 0 else _signed(store, rank, me)
        if name:
            return hashlib.sha256(name.encode()).hexdigest()
        time.sleep(POLL_SECONDS)
    raise TimeoutError(f"not all of {world_size} processes came within {seconds:.0f} s")


def _proposed(store: Store, world_size: int) -> str:
    """The first rank's look: the list of those who are here, if all of them have signed it."""
    names = ",".join(_read(store, f"neupol/here/{rank}") for rank in range(world_size))
    store.set("neupol/list", names)
    if any(_read(store, f"neupol/signed/{rank}") != names for rank in range(1, world_size)):
        return ""
    store.set("neupol/counts", names)
    return names


def _signed(store: Store, rank: int, me: str) -> str:
    """Another rank's look: the list that counts, if this rank is in it."""
    names = _read(store, "neupol/list")
    if me not in names.split(","):
        return ""
    store.set(f"neupol/signed/{rank}", names)
    return names if _read(store, "neupol/counts") == names else ""


def _read(store: Store, key: str) -> str:
    return store.get(key).decode() if store.check([key]) else ""
