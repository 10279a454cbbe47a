"""Options of `llm_task`, as people write them, read once into a policy."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from difflib import get_close_matches
from typing import Any, Final, get_args

from celery.exceptions import ImproperlyConfigured

from llmguard.config import units
from llmguard.config.units import Wrong
from llmguard.core.rules import PPM
from llmguard.core.runaway import (
    RULES,
    SAFE_RULES,
    Breaker,
    Duplicates,
    Mode,
    OnAbort,
    OnUnavailable,
    RetryBudget,
    TaskPolicy,
)
from llmguard.core.runs import BreakerTerms, RetryTerms

_LONGEST: Final = 128
_MOST: Final = 10**9
_ASKED_FIRST: Final = frozenset({"max_tree_tasks", "retry_budget", "breaker", "duplicates"})
"""Options that need the quota store before a body runs."""


def parse_policy(options: Mapping[str, Any]) -> TaskPolicy:
    """The policy of a decorated task. Raises ImproperlyConfigured, in one sentence, for what cannot be.

    ============================== ====================== =====================================================
    option                         default                meaning
    ============================== ====================== =====================================================
    ``team``, ``env``, ``feature`` not said               whom its calls are charged to, if nobody else says
    ``max_paid_attempts``          ``None``               runs that cost money and did not succeed; ``None`` is
                                                          the task's `max_retries` + 1, and 4 at least
    ``max_redeliveries``           2                      runs that may end without a word (a killed worker)
    ``max_calls``                  500                    calls of one run
    ``budget``                     "$5"                   money of one task, all its runs together
    ``tree_budget``                "$50"                  money of a task and everything it starts
    ``max_tree_calls``             2000                   calls of the same
    ``max_tree_tasks``             1000                   tasks of the same
    ``max_depth``                  25                     tasks from the first one down to one that it led to
    ``identical_prompts``          6                      times that one prompt is sent in one run
    ``retry_budget``               RetryBudget(0.2, 10)   retries of all tasks of this name in a minute
    ``breaker``                    Breaker(20, 0.8,       paid failures of all tasks of this name in ten
                                   "15m")                 minutes that stop them for a while
    ``max_runtime``                1800 (seconds)         after which a run makes no more calls; also "30m"
    ``duplicates``                 "defer"                a message whose task runs elsewhere: looked at again
                                                          later, "ignore"d, or "run" all the same
    ``on_abort``                   "fail"                 a stopped task fails; "reject" also gives its message
                                                          to the broker's dead-letter exchange
    ``on_unavailable``             "local"                the quota store is away: spend a small allowance,
                                                          "deny" (run it later), or "allow"
    ``mode``                       "enforce"              "warn" stops nothing, "off" does nothing
    ============================== ====================== =====================================================

    ``None`` lifts a limit, save that of ``max_paid_attempts``.
    """
    read = {name: _read(name, value) for name, value in options.items()}
    enforced = RULES if read.get("mode", "enforce") == "enforce" else frozenset()
    return TaskPolicy(**read, enforced=enforced, chosen=frozenset(read))


def undecorated(options: Mapping[str, Any]) -> TaskPolicy:
    """The policy of tasks that have none: what no healthy task can break is enforced, the rest only warns.

    ``options`` are those of :func:`parse_policy`, from `install(default=…)`; what they name is enforced, too. Raises
    ImproperlyConfigured.
    """
    read = {name: _read(name, value) for name, value in options.items()}
    chosen = frozenset(read)
    enforced = SAFE_RULES | (chosen & RULES) if read.get("mode", "enforce") == "enforce" else frozenset()
    first = bool(chosen & _ASKED_FIRST)
    return TaskPolicy(**read, asks_first=first, enforced=enforced, chosen=chosen)


def _read(name: str, value: Any) -> Any:
    reader = _READERS.get(name)
    if reader is None:
        close = get_close_matches(name, _READERS, n=1)
        hint = f"did you mean {close[0]}" if close else f"there are {', '.join(_READERS)}"
        raise ImproperlyConfigured(f"llm_task has no option {name}; {hint}?")
    try:
        return reader(value)
    except Wrong as wrong:
        raise ImproperlyConfigured(f"llm_task: {name} is {value!r}, {wrong.why}; {wrong.fix}.") from None


def _or_none(reader: Callable[[Any], Any]) -> Callable[[Any], Any]:
    return lambda value: None if value is None else reader(value)


def _name(value: Any) -> str:
    if not isinstance(value, str) or not 0 < len(value) <= _LONGEST or not value.isprintable():
        raise Wrong("not a name", f"write 1 to {_LONGEST} printable characters")
    return value


def _number(least: int) -> Callable[[Any], Any]:
    def read(value: Any) -> int:
        fix = f"write a whole number from {least} to {_MOST:,}, or None for no limit"
        if not isinstance(value, int) or isinstance(value, bool):
            raise Wrong("not a whole number", fix)
        if not least <= value <= _MOST:
            raise Wrong("out of range", fix)
        return value

    return read


def _money(value: Any) -> int:
    if not isinstance(value, str):
        raise Wrong("an amount without a unit", "write dollars, such as '$5'")
    allowed = units.money(value)
    if not allowed:
        raise Wrong("a budget of nothing, which would refuse every call", "write dollars, such as '$5'")
    return allowed


def _runtime(value: Any) -> int:
    fix = "write seconds, such as 1800, or '30m'"
    if isinstance(value, str):
        milliseconds = units.duration(value)
    elif isinstance(value, int | float) and not isinstance(value, bool):
        milliseconds = int(value * 1000)
    else:
        raise Wrong("not a length of time", fix)
    if milliseconds <= 0:
        raise Wrong("no time at all", fix)
    return milliseconds


def _ratio(value: Any, fix: str) -> int:
    if not isinstance(value, int | float) or isinstance(value, bool) or not 0 <= value <= 1:
        raise Wrong("with a ratio that is not between 0 and 1", fix)
    return round(value * PPM)


def _retry_budget(value: Any) -> RetryTerms:
    fix = "write RetryBudget(0.2, floor_per_min=10)"
    if not isinstance(value, RetryBudget):
        raise Wrong("no RetryBudget", fix)
    if not isinstance(value.floor_per_min, int) or value.floor_per_min < 0:
        raise Wrong("with a floor that is not a whole number", fix)
    return RetryTerms(_ratio(value.ratio, fix), value.floor_per_min)


def _breaker(value: Any) -> BreakerTerms:
    fix = "write Breaker(20, 0.8, '15m')"
    if not isinstance(value, Breaker):
        raise Wrong("no Breaker", fix)
    if not isinstance(value.failures, int) or value.failures < 1:
        raise Wrong("with failures that are not a whole number from 1 on", fix)
    cooldown = units.duration(value.cooldown)
    if not cooldown:
        raise Wrong("without a time to cool down", fix)
    return BreakerTerms(value.failures, _ratio(value.ratio, fix), cooldown)


def _one_of(words: tuple[str, ...]) -> Callable[[Any], Any]:
    def read(value: Any) -> str:
        if value not in words:
            raise Wrong("not possible", f"write one of {', '.join(words)}")
        return str(value)

    return read


_READERS: Final[Mapping[str, Callable[[Any], Any]]] = {
    "team": _or_none(_name),
    "env": _or_none(_name),
    "feature": _or_none(_name),
    "max_paid_attempts": _or_none(_number(1)),
    "max_redeliveries": _or_none(_number(0)),
    "max_calls": _or_none(_number(1)),
    "budget": _or_none(_money),
    "tree_budget": _or_none(_money),
    "max_tree_calls": _or_none(_number(1)),
    "max_tree_tasks": _or_none(_number(1)),
    "max_depth": _or_none(_number(0)),
    "identical_prompts": _or_none(_number(1)),
    "retry_budget": _or_none(_retry_budget),
    "breaker": _or_none(_breaker),
    "max_runtime": _or_none(_runtime),
    "duplicates": _one_of(get_args(Duplicates)),
    "on_abort": _one_of(get_args(OnAbort)),
    "on_unavailable": _one_of(get_args(OnUnavailable)),
    "mode": _one_of(get_args(Mode)),
}
