"""Objects that the sandbox keeps: responses and files, in memory, the oldest making room for the newest."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

MOST_OBJECTS = 1000
MOST_BYTES = 32 * 1024 * 1024


@dataclass(slots=True)
class Item:
    """One kept object: its own JSON, the texts of a conversation up to it, the content of a file."""

    document: dict[str, Any]
    texts: list[str] = field(default_factory=list)
    content: bytes = b""

    @property
    def size(self) -> int:
        return len(self.content) + sum(map(len, self.texts))


class Shelf:
    """A bounded set of objects by kind and id."""

    def __init__(self, objects: int = MOST_OBJECTS, size: int = MOST_BYTES) -> None:
        self._most_objects = objects
        self._most_bytes = size
        self._bytes = 0
        self._items: dict[tuple[str, str], Item] = {}

    def put(self, kind: str, name: str, item: Item) -> None:
        """Keep an object; the oldest ones go when there are too many or too large ones."""
        self._items[kind, name] = item
        self._bytes += item.size
        while len(self._items) > self._most_objects or (self._bytes > self._most_bytes and len(self._items) > 1):
            self.remove(*next(iter(self._items)))

    def get(self, kind: str, name: str) -> Item | None:
        return self._items.get((kind, name))

    def remove(self, kind: str, name: str) -> bool:
        """Forget an object; False when there was none."""
        item = self._items.pop((kind, name), None)
        if item is None:
            return False
        self._bytes -= item.size
        return True

    def every(self, kind: str) -> list[dict[str, Any]]:
        """All documents of a kind, the newest first."""
        return [item.document for (k, _), item in reversed(self._items.items()) if k == kind]
