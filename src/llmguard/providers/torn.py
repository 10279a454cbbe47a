"""Ends a JSON text that broke off in the middle."""

from __future__ import annotations

import re

import jiter

_TOKENS = re.compile(
    rb'["{}\[\],:]|\\(?:u[dD][89abAB][0-9a-fA-F]{2}(?:\\(?:u[0-9a-fA-F]{0,4}|\Z))?|u[0-9a-fA-F]{0,4}|.)?', re.DOTALL
)
"""What is looked at: structure, and escapes, in which both halves of a surrogate pair are one."""
_WHOLE_ESCAPE = re.compile(rb"\\(?:[^u]|u(?![dD][89abAB])[0-9a-fA-F]{4}|u[dD][89abAB].{2}\\u.{4})", re.DOTALL)
_TORN_CHARACTER = re.compile(rb"(?:[\xc2-\xdf]|[\xe0-\xef][\x80-\xbf]?|[\xf0-\xf4][\x80-\xbf]{0,2})\Z")
_MENDS = (
    *(b"\x80", b"\x80\x80", b"\xa0\x80", b"\x80\x80\x80", b"\x90\x80\x80"),
    *(b"\\", b"a", b"0a", b"00a", b"000a"),
    *(b"a\\udc0a", b"0a\\udc0a", b"\\udc0a", b"udc0a", b"dc0a", b"c0a"),
)
"""Ends of broken UTF-8 characters, escapes and surrogate pairs; one of them fits whatever was broken off."""
_LITERALS = (b"true", b"false", b"null")
_CLOSER = {ord("{"): b"}", ord("["): b"]"}
_LONGEST_NUMBER = 32


class TornObject:
    """Follows an object while its bytes go out, and can end it wherever it breaks off.

    For events that the guard stops in the middle when a part is already with the caller. Only strings, brackets and
    separators are looked at, so megabytes of base64 cost one search.
    """

    __slots__ = ("_escape", "_in_string", "_is_key", "_last", "_rest", "_stack")

    def __init__(self, text: bytes = b"") -> None:
        self._stack = bytearray()
        self._in_string = False
        self._is_key = False
        self._escape = b""
        self._last = b""
        self._rest = b""
        self.feed(text)

    def feed(self, data: bytes) -> None:
        """Take the next bytes of the text."""
        data = self._escape + data
        after, text = 0, b""
        for token in _TOKENS.finditer(data):
            after, text = token.end(), token[0]
            if not self._in_string:
                self._outside(text)
            elif text == b'"':
                self._in_string = False
        is_torn = self._in_string and text[:1] == b"\\" and after == len(data) and not _WHOLE_ESCAPE.fullmatch(text)
        self._escape = text if is_torn else b""
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

    def end(self, members: bytes) -> bytes:
        """The bytes that end the object, with ``members`` (encoded ``"name":value``) added at its top level.

        Empty when the text is no object or has ended already.
        """
        if self._stack[:1] != b"{":
            return b""
        value = self._value_end()
        closers = b"".join(_CLOSER[bracket] for bracket in reversed(self._stack[1:]))
        empty = self._last == b"{" and len(self._stack) == 1
        return value + closers + (b"" if empty else b",") + members + b"}"

    def _value_end(self) -> bytes:
        """What makes the key or scalar under way whole."""
        if self._in_string:
            return self._character_end() + (b'":null' if self._is_key else b'"')
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

    def _character_end(self) -> bytes:
        """What makes the character or escape under way whole."""
        broken = self._escape
        if not broken and (found := _TORN_CHARACTER.search(self._rest)):
            broken = found[0]
        return next((end for end in _MENDS if _is_text(broken + end)), b"") if broken else b""


def _is_text(inner: bytes) -> bool:
    try:
        jiter.from_json(b'"%b"' % inner)
    except ValueError:
        return False
    return True
