"""Reply bodies that do something around each chunk and at their end."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager
from typing import Any


class Scoped(Iterator[bytes]):
    """A body whose chunks are made in ``scope``, one by one, while the server stays outside of it.

    ``end`` is told once how it ended: None, or what an iteration raised.
    """

    def __init__(
        self,
        body: Iterable[bytes],
        scope: AbstractContextManager[Any],
        end: Callable[[BaseException | None], None] = lambda error: None,
    ) -> None:
        self._body = body
        self._chunks = iter(body)
        self._scope = scope
        self._end = end

    def __next__(self) -> bytes:
        try:
            with self._scope:
                return next(self._chunks)
        except StopIteration:
            raise
        except BaseException as error:
            self._end(error)
            raise

    def close(self) -> None:
        """The server is done with it, or its caller gone. Idempotent."""
        try:
            with self._scope:
                close(self._body)
        finally:
            self._end(None)


def close(body: object) -> None:
    """Close a body as WSGI servers do."""
    method = getattr(body, "close", None)
    if method is not None:
        method()
