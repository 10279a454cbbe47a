"""What a sandbox model does besides answering: its name says it.

=====================  ==============================================================================================
``echo``               answers at once with a hash of the prompt and its last words; so does every other name
``slow``               1.5 s before the head, 100 ms between the pieces of a stream
``long``               2,000 words
``no-usage``           answers, but reports no usage
``usage-<in>-<out>``   answers, and reports exactly these token counts
``truncate``           breaks off half-way
``hang``               never answers
``error-<status>``     answers with that error (400 to 599)
=====================  ==============================================================================================
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace

PREFIX = "sandbox/"


@dataclass(frozen=True, slots=True)
class Behaviour:
    """Times are milliseconds. ``words`` is the length of the reply, None for that of an echo; ``text`` is all of it.

    ``usage`` is what to report as (input, output) tokens instead of the truth; ``reports`` False reports nothing.
    """

    latency_ms: int = 0
    interval_ms: int = 0
    words: int | None = None
    text: str | None = None
    usage: tuple[int, int] | None = None
    reports: bool = True
    status: int = 200
    truncate: bool = False
    hang: bool = False


ECHO = Behaviour()
NAMED = {
    "echo": ECHO,
    "slow": Behaviour(latency_ms=1500, interval_ms=100),
    "long": Behaviour(words=2000),
    "no-usage": Behaviour(reports=False),
    "truncate": Behaviour(truncate=True),
    "hang": Behaviour(hang=True),
}
MODELS = (*NAMED, "usage-100-50", "error-429", "error-500")
"""The names that a list of models shows."""

_USAGE = re.compile(r"usage-(\d{1,9})-(\d{1,9})")
_ERROR = re.compile(r"error-([45]\d\d)")


def behaviour(model: str) -> Behaviour:
    """The behaviour that a model's name asks for."""
    name = model.removeprefix(PREFIX)
    if found := NAMED.get(name):
        return found
    if match := _USAGE.fullmatch(name):
        return replace(ECHO, usage=(int(match[1]), int(match[2])))
    if match := _ERROR.fullmatch(name):
        return replace(ECHO, status=int(match[1]))
    return ECHO
