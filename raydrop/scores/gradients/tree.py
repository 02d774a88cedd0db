"""Sums whose bits depend on the order of the addends alone: one fixed binary tree.

Whoever adds, in whatever order the parts become known, adds the same pairs. Pairwise summation also
keeps the rounding error at log2(n) units in the last place where adding one after the other may
reach n (Higham 1993, "The accuracy of floating point summation").
"""

from __future__ import annotations

from typing import Generic, TypeVar

from raydrop.errors import ScoringError

T = TypeVar("T")


def pairs_of(addends: int) -> tuple[tuple[int, int], ...]:
    """Return the additions that make up a pairwise sum, each as the two nodes that it adds.

    Nodes 0...n-1 are the n addends in their order, addition i is node n + i, and the last node is
    the sum. Level by level neighbours are added; an odd one at the end is carried up.

    Example:
        >>> pairs_of(5)
        ((0, 1), (2, 3), (5, 6), (7, 4))
    """
    pairs: list[tuple[int, int]] = []
    level = list(range(addends))
    while len(level) > 1:
        neighbours = list(zip(level[::2], level[1::2], strict=False))
        sums = range(addends + len(pairs), addends + len(pairs) + len(neighbours))
        level = [*sums, *level[2 * len(neighbours) :]]
        pairs += neighbours
    return tuple(pairs)


class PairwiseSum(Generic[T]):
    """The parts of a pairwise sum that are known; says which addition each new one allows.

    A part is an array, or a reference to one elsewhere. Parts are let go once their sum is known,
    so if addends come roughly in order, about log2(n) are held.
    """

    def __init__(self, addends: int) -> None:
        self._addends, self._pairs = addends, pairs_of(addends)
        self._parents = {child: addends + i for i, pair in enumerate(self._pairs) for child in pair}
        self.parts: dict[int, T] = {}
        """Parts that are held, by their nodes."""
        self.root = addends + len(self._pairs) - 1
        """Node of the whole sum."""

    def put(self, node: int, part: T) -> int | None:
        """Keep a part, but not those it was added from; return what can be added now, or None."""
        for child in self.children(node):
            self.parts.pop(child, None)
        self.parts[node] = part
        parent = self.parent(node)
        known = parent is not None and all(each in self.parts for each in self.children(parent))
        return parent if known else None

    def children(self, node: int) -> tuple[int, ...]:
        """Return the two nodes that a node is added from; none for an addend."""
        return self._pairs[node - self._addends] if node >= self._addends else ()

    def parent(self, node: int) -> int | None:
        """Return the node that a node is added into; None for the whole sum."""
        return self._parents.get(node)

    def addends(self, node: int) -> list[int]:
        """Return the addends that a node is the sum of, in their order."""
        if node < self._addends:
            return [node]
        return [leaf for child in self.children(node) for leaf in self.addends(child)]

    @property
    def total(self) -> T:
        """The whole sum; a ScoringError if an addend has not come."""
        if self.root not in self.parts:
            known = sum(len(self.addends(node)) for node in self.parts)
            raise ScoringError(
                f"Expected {self._addends} parts of a sum, found {known}; "
                "run the command again, which computes what is missing."
            )
        return self.parts[self.root]
