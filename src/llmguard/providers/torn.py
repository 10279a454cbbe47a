"""Ends a JSON text that broke off in the middle."""

from __future__ import annotations

import re

_TOKENS = re.compile(rb'["{}\[\],:]|\\.?', re.DOTALL)
_LITERALS = (b"true", b"false", b"null")
_CLOSER = {ord("{"): b"}", ord("["): b"]"}
_LONGEST_NUMBER = 32


class TornObject:
    """Follows an object while its bytes go out, and can end it at any point outside a character or a ``\\u`` escape.

    For events too large to be held back whole: when the guard stops a stream in the middle of one, a part is already
    with the caller. Only strings, brackets and separators are looked at, so megabytes of base64 cost one search.
    """

    __slots__ = ("_escaped", "_in_string", "_is_key", "_last", "_rest", "_stack")

    def __init__(self) -> None:
        self._stack = bytearray()
        self._in_string = False
        self._is_key = False
        self._escaped = False
        self._last = b""
        self._rest = b""

    def feed(self, data: bytes) -> None:
        """Take the next bytes of the text."""
        after = 0
        escaped, self._escaped = self._escaped and bool(data), self._escaped and not data
        for token in _TOKENS.finditer(data, 1 if escaped else 0):
            after = token.end()
            self._escaped = token[0] == b"\\"
            if self._in_string:
                self._in_string = token[0] != b'"'
            else:
                self._outside(token[0])
        self._rest = data[after:][-_LONGEST_NUMBER:] if after else (self._rest + data)[-_LONGEST_NUMBER:]

    def _outside(self, token: bytes) -> None:
        if token == b'"':
            self._in_string = True
            self._is_key = self._stack[-1:] == b"{" and self._last != b":"
        elif token in b"{[":
            self._stack += token
        elif token in b"}]":
            del self._stack[-1:]
        self._last = token

    @property
    def started(self) -> bool:
        """True once the first bracket was seen."""
        return bool(self._last)

    def end(self, member: bytes) -> bytes:
        """The bytes that end the object, with ``member`` (an encoded ``"name":value``) added at its top level.

        Empty when the text is no object or has ended already.
        """
        if self._stack[:1] != b"{":
            return b""
        value = self._value_end()
        closers = b"".join(_CLOSER[bracket] for bracket in reversed(self._stack[1:]))
        empty = self._last == b"{" and len(self._stack) == 1
        return value + closers + (b"" if empty else b",") + member + b"}"

    def _value_end(self) -> bytes:
        """What makes the key or scalar under way whole."""
        if self._in_string:
            return (b"\\" if self._escaped else b"") + (b'":null' if self._is_key else b'"')
        if self._last == b'"' and self._is_key:
            return b":null"
        rest = self._rest.strip()
        if rest:
            literal = next((word for word in _LITERALS if word.startswith(rest)), None)
            return literal[len(rest) :] if literal else b"" if rest[-1:].isdigit() else b"0"
        if self._last == b":":
            return b"null"
        if self._last == b",":
            return b"null" if self._stack[-1:] == b"[" else b'"":null'
        return b""
