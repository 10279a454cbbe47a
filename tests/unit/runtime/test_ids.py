"""Ids sort by time and follow RFC 9562."""

from __future__ import annotations

import uuid

from llmguard.runtime.ids import uuid7


def test_version_variant_and_time() -> None:
    parsed = uuid.UUID(uuid7(1_764_000_000_123))
    assert parsed.version == 7
    assert parsed.variant == uuid.RFC_4122
    assert parsed.int >> 80 == 1_764_000_000_123


def test_later_ids_sort_after_earlier_ones_and_none_repeats() -> None:
    ids = [uuid7(at) for at in range(1_764_000_000_000, 1_764_000_001_000)]
    assert ids == sorted(ids)
    assert len({uuid7(1) for _ in range(10_000)}) == 10_000
