"""One preallocated file of the spool, written through a shared memory map and read back by sequence number.

A store into a shared map reaches the kernel's page cache at once, so it survives `kill -9` as a `write` does; but it
makes no system call, and so never hands the interpreter to the shipper thread in the middle of a request (measured:
p99 of an append beside a busy shipper 79 µs with `pwrite`, 12 µs with the map). The whole file is allocated first, so
that a full disk shows there, as an error, and not later, as a signal.
"""

from __future__ import annotations

import mmap
import os
from pathlib import Path

from llmguard.ledger import codec

MAGIC = b"lgspool1"
SUFFIX = ".seg"
_READ = 256 * 1024


class Segment:
    """A segment open for writing: ``map`` is its memory, ``size`` its length."""

    __slots__ = ("fd", "map", "path", "size")

    def __init__(self, path: Path, size: int) -> None:
        """Allocate a new file. Raises OSError, leaving nothing behind, where there is no room."""
        self.path = path
        self.size = size
        self.fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600)
        try:
            os.posix_fallocate(self.fd, 0, size)
            self.map = mmap.mmap(self.fd, size)
        except OSError:
            os.close(self.fd)
            path.unlink()
            raise
        self.map[: len(MAGIC)] = MAGIC

    def rename(self, path: Path) -> None:
        """Give the file its final name."""
        self.path.rename(path)
        self.path = path

    def sync(self) -> None:
        """Put everything written so far on the disk."""
        os.fdatasync(self.fd)

    def close(self) -> None:
        """Forget the memory and the file."""
        self.map.close()
        os.close(self.fd)


def name(first: int) -> str:
    """A segment's file name: the number of its first record."""
    return f"{first:016x}{SUFFIX}"


def first_of(path: Path) -> int:
    """The inverse of :func:`name`."""
    return int(path.stem, 16)


class SegmentReader:
    """Reads the frames of one segment in order. ``seq`` is the number of the next one."""

    def __init__(self, path: Path) -> None:
        self._fd = os.open(path, os.O_RDONLY)
        self._at = len(MAGIC)
        self._size = os.fstat(self._fd).st_size
        self.seq = first_of(path)
        if os.pread(self._fd, len(MAGIC), 0) != MAGIC:
            self._at = self._size

    def read(self, limit: int, *, last: int | None = None, only: int | None = None) -> list[tuple[int, bytes]]:
        """At most ``limit`` payloads of kind ``only`` (all kinds by default) with their numbers, up to ``last``.

        An empty list means that no further good frame follows, up to ``last``.
        """
        found: list[tuple[int, bytes]] = []
        window = _READ
        while len(found) < limit and (last is None or self.seq <= last):
            data = os.pread(self._fd, window, self._at)
            frames, used, self.seq = codec.scan(data, self.seq, limit - len(found), last=last, only=only)
            found += frames
            self._at += used
            if not used:
                longer = self._length(data)
                if longer <= window:
                    break
                window = longer
        return found

    def skip_to(self, seq: int) -> None:
        """Go forward to record ``seq`` without looking at those before it."""
        self.read(1, last=seq - 1, only=0)

    def _length(self, data: bytes) -> int:
        """How long the frame at the start of ``data`` says it is; 0 where it cannot be that long."""
        if len(data) < codec.HEADER.size:
            return 0
        length = codec.HEADER.size + int(codec.HEADER.unpack_from(data)[0])
        return length if self._at + length <= self._size else 0

    def close(self) -> None:
        """Close the file."""
        os.close(self._fd)
