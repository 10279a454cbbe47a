"""A better usage number for a call that has its row: the correction is a new row of signed differences."""

from __future__ import annotations

from collections.abc import Sequence
from operator import attrgetter
from typing import Any

from llmguard.core.records import Entry

AMOUNTS = (
    "input_tokens",
    "output_tokens",
    "cached_input_tokens",
    "cache_write_tokens",
    "reasoning_tokens",
    "cost_nano",
    "cost_input_nano",
    "cost_output_nano",
    "saved_nano",
    "estimate_nano",
    "cap_nano",
    "bytes_in",
    "bytes_out",
)
"""The columns that add up over the rows of one attempt. All others are those of the row's own record."""

Amounts = Sequence[int | None]

amounts: attrgetter[tuple[int | None, ...]] = attrgetter(*AMOUNTS)
"""The amounts of an entry, in the order of :data:`AMOUNTS`."""


def adjust(entry: Entry, so_far: Amounts) -> Entry:
    """The row that lifts an attempt from ``so_far`` to what ``entry`` says."""
    pairs = zip(AMOUNTS, amounts(entry), so_far, strict=True)
    changes: dict[str, Any] = {name: _difference(new, old) for name, new, old in pairs}
    return entry._replace(kind="ADJUST", **changes)


def _difference(new: int | None, old: int | None) -> int | None:
    return None if new is None and old is None else (new or 0) - (old or 0)
