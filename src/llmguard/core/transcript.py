"""The beginning of what passes in a call, kept while it passes."""

from __future__ import annotations


class Transcript:
    """The first ``room`` bytes of a reply, and how many there were."""

    __slots__ = ("_head", "_room", "size")

    def __init__(self, room: int) -> None:
        self._head = bytearray()
        self._room = room
        self.size = 0

    def add(self, data: bytes) -> None:
        """The next bytes have passed."""
        self.size += len(data)
        left = self._room - len(self._head)
        if left > 0:
            self._head += data[:left]

    @property
    def head(self) -> bytes:
        """What was kept."""
        return bytes(self._head)
