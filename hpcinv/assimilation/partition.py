r"""Who stores which frames and who evaluates which terms: ranks = member groups × time slabs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ..errors import BadInput
from .composition import Term

__all__ = ["Partition", "owners", "slab"]


def slab(length: int, slabs: int, k: int) -> tuple[int, int]:
    r"""Frames [a, b) stored by slab ``k`` of ``slabs``; sizes differ by one at most."""

    return length * k // slabs, length * (k + 1) // slabs


def owners(terms: Sequence[Term], slabs: int) -> list[int]:
    r"""The slab that evaluates each term: contiguous shares of equal cost.

    With more slabs than terms, some evaluate nothing and only store their frames.
    """

    cost = [len(term.frames) for term in terms]
    total, done, out = sum(cost), 0, []
    for c in cost:
        out.append(min(slabs - 1, (2 * done + c) * slabs // (2 * total)))
        done += c

    return out


@dataclass(frozen=True)
class Partition:
    r"""The place of one rank.

    Arguments:
        groups: Number of member groups.
        slabs: Number of time slabs.
        group: This rank's member group.
        slab: This rank's time slab.
    """

    groups: int
    slabs: int
    group: int
    slab: int

    @staticmethod
    def of(rank: int, size: int, members: int, slabs: int | None = None) -> Partition:
        r"""Places ``rank`` among ``size``: as many member groups as there are members for.

        Members need no exchange, so groups come first; ``slabs`` fixes the number of time slabs.

        Raises:
            BadInput: If ``slabs`` does not divide the number of ranks, or leaves groups without
                members.
        """

        if slabs is None:
            slabs = size // max(g for g in range(1, size + 1) if size % g == 0 and g <= members)
        if slabs < 1 or size % slabs:
            raise BadInput(
                f"{slabs} time slabs for {size} ranks",
                where="slabs",
                instead=f"Use a divisor of {size}.",
            )
        groups = size // slabs
        if groups > members:
            raise BadInput(
                f"{groups} member groups for {members} members",
                where="slabs",
                instead=f"Use at least {-(-size // members)} time slabs.",
            )

        return Partition(groups, slabs, rank // slabs, rank % slabs)

    def members(self, ids: Sequence[int], block: int = 1) -> list[int]:
        r"""The members of this rank's group; members that share a padded block stay together."""

        blocks: dict[int, list[int]] = {}
        for m in ids:
            blocks.setdefault(m // block, []).append(m)
        keys = sorted(blocks)
        a, b = slab(len(keys), self.groups, self.group)

        return [m for k in keys[a:b] for m in blocks[k]]
