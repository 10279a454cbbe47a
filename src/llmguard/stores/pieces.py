"""The ledger's truth in pieces small enough that writing one never holds up a store."""

from __future__ import annotations

from collections.abc import Iterator

from llmguard.core.moves import Load, Truth

PIECE = 500


def pieces(truth: Truth, fence: int) -> Iterator[Load]:
    """``truth`` as loads of at most 500 sums or rids each; repeating one does no harm."""
    for start in range(0, len(truth.sums), PIECE):
        yield Load(fence, tuple(truth.sums[start : start + PIECE]))
    for start in range(0, len(truth.counted), PIECE):
        yield Load(fence, (), tuple(truth.counted[start : start + PIECE]))
