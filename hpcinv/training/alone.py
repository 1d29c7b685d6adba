r"""What one rank does while the others wait, for however long it takes."""

from __future__ import annotations

__all__ = ["alone"]

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, wait
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from hpcinv.parallel import World

Result = TypeVar("Result")
PATIENCE = 5.0  # seconds between two signs of life: far below what a collective waits for


def alone(world: World, work: Callable[[], Result]) -> Result | None:
    r"""Lets rank 0 work, in a thread, and tell the others every few seconds that it still does:
    they would take a rank for lost that leaves them longer in one collective. Collective.

    Returns:
        The result, on rank 0.

    Raises:
        Exception: On rank 0, what the work raised; the others then notice that it is gone.
    """
    if world.size == 1:
        return work()
    if world.rank:
        while not world.broadcast(None):
            continue
        return None
    with ThreadPoolExecutor(1, thread_name_prefix="alone") as thread:
        task = thread.submit(work)
        done = False
        while not done:
            done = bool(wait([task], PATIENCE).done)
            if done:
                task.result()  # raises before the others are told of an end
            world.broadcast(done)
        return task.result()
