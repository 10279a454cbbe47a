"""Who is calling: attribution that follows the code that makes calls, through `await`, tasks and threads.

It lives in a context variable. asyncio carries it into tasks and `to_thread`; :mod:`llmguard.runtime.threads` carries
it into plain threads and thread pools.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Generator, Mapping
from contextvars import ContextVar, copy_context
from dataclasses import dataclass, replace
from functools import wraps
from inspect import isasyncgenfunction, iscoroutinefunction, isgeneratorfunction
from types import TracebackType
from typing import Any, ParamSpec, TypeVar, cast

from llmguard.core.call import Caller
from llmguard.errors import TaskAborted

P = ParamSpec("P")
T = TypeVar("T")

_LONGEST = 128
_NOBODY = Caller()


@dataclass(slots=True, eq=False)
class _Frame:
    """One scope that was entered, and the one around it."""

    scope: Scope
    caller: Caller
    outer: _Frame | _Outset | None


@dataclass(slots=True, eq=False)
class _Outset:
    """The outermost scope of a body whose caller is worked out when somebody asks for it: most bodies never do."""

    tell: Callable[[], Caller]
    scope: None = None
    outer: None = None

    @property
    def caller(self) -> Caller:
        return self.tell()


_frame: ContextVar[_Frame | _Outset | None] = ContextVar("llmguard_caller", default=None)


class Scope:
    """A stretch of code with a caller of its own: with, async with, or a decorator of any kind of function.

    May be entered several times, also at once in several threads and tasks. ``derive`` makes the caller from the one
    around it.
    """

    __slots__ = ("_derive",)

    def __init__(self, derive: Callable[[Caller], Caller]) -> None:
        self._derive = derive

    def caller(self, outer: Caller) -> Caller:
        """Who calls inside, where ``outer`` calls outside."""
        return self._derive(outer)

    def __enter__(self) -> Caller:
        outer = _frame.get()
        caller = self._derive(_NOBODY if outer is None else outer.caller)
        _frame.set(_Frame(self, caller, outer))
        return caller

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        frame = _frame.get()
        # A generator may be finished in another context than it began in: there is nothing of ours to take off there.
        if frame is not None and frame.scope is self:
            _frame.set(frame.outer)

    async def __aenter__(self) -> Caller:
        return self.__enter__()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.__exit__(kind, error, trace)

    def __call__(self, function: Callable[P, T]) -> Callable[P, T]:
        """Decorate ``function``: its calls run in this scope, those of a generator function step by step."""
        return cast("Callable[P, T]", _wrapped(self, function))


def context(
    *,
    team: str | None = None,
    env: str | None = None,
    feature: str | None = None,
    end_user: str | None = None,
    samples: int | None = None,
) -> Scope:
    """Attribute the LLM calls made inside: ``with context(team="search"):``, ``async with``, or as a decorator.

    What is left out stays as it is around it. ``samples`` says that so many answers to one and the same prompt are
    meant. Raises ValueError for a name that is empty, longer than 128 characters or not printable.
    """
    changes: dict[str, Any] = {"team": team, "env": env, "feature": feature, "end_user": end_user}
    changes = checked(changes)
    if samples is not None:
        if not isinstance(samples, int) or isinstance(samples, bool) or samples < 1:
            raise ValueError(f"samples={samples}: say how many answers to one prompt are meant, 1 or more")
        changes["samples"] = samples
    return Scope(lambda outer: replace(outer, **changes))


def carrying(caller: Caller) -> Scope:
    """The scope of a door that knows the whole caller: a task's message, a web request."""
    return Scope(lambda outer: caller)


def begin_as(tell: Callable[[], Caller], function: Callable[[], T]) -> T:
    """Call ``function`` in a copy of this context, where the caller is whom ``tell`` names each time that it is asked:
    never, if nothing is guarded there."""
    return copy_context().run(_begin_as, tell, function)


def _begin_as(tell: Callable[[], Caller], function: Callable[[], T]) -> T:
    _frame.set(_Outset(tell))
    return function()


def current() -> Caller:
    """Who is calling here; nobody in particular outside of every :func:`context`."""
    frame = _frame.get()
    return _NOBODY if frame is None else frame.caller.living()


class Place:
    """Where code stands at a moment, to run other code there later, perhaps in another thread."""

    __slots__ = ("_frame",)

    def __init__(self, frame: _Frame | _Outset | None) -> None:
        self._frame = frame

    @property
    def empty(self) -> bool:
        """Whether it lies outside of every scope."""
        return self._frame is None

    def run(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Call ``function`` there."""
        token = _frame.set(self._frame)
        try:
            return function(*args, **kwargs)
        finally:
            _frame.reset(token)


def place() -> Place:
    """Where this code stands now."""
    return Place(_frame.get())


def checkpoint() -> None:
    """Raise :class:`llmguard.errors.TaskAborted` when the task that runs here was stopped, or the tree that it belongs
    to; for long loops that make no calls. What was stopped from elsewhere is known here some seconds later."""
    execution = current().execution
    if execution is not None and execution.trip is not None:
        execution.aborted = True
        raise TaskAborted(f"{execution.name}[{execution.task_id}] was stopped by the runaway guard")


def checked(words: Mapping[str, Any]) -> dict[str, Any]:
    """Those of a caller's ``words`` that say something. Raises ValueError for one that is no name."""
    said = {name: word for name, word in words.items() if word is not None}
    for name, word in said.items():
        if not isinstance(word, str) or not 0 < len(word) <= _LONGEST or not word.isprintable():
            raise ValueError(f"{name}={word!r}: write 1 to {_LONGEST} printable characters")
    return said


def _wrapped(scope: Scope, function: Callable[..., Any]) -> Callable[..., Any]:
    if iscoroutinefunction(function):

        async def run_async(*args: Any, **kwargs: Any) -> Any:
            with scope:
                return await function(*args, **kwargs)

        return wraps(function)(run_async)
    if isgeneratorfunction(function):
        return wraps(function)(lambda *args, **kwargs: _Steps(scope, function(*args, **kwargs)))
    if isasyncgenfunction(function):
        return wraps(function)(lambda *args, **kwargs: _AsyncSteps(scope, function(*args, **kwargs)))

    def run(*args: Any, **kwargs: Any) -> Any:
        with scope:
            return function(*args, **kwargs)

    return wraps(function)(run)


class _Steps(Generator[Any, Any, Any]):
    """A generator whose steps run in a scope, while whoever iterates stays outside of it."""

    def __init__(self, scope: Scope, inner: Generator[Any, Any, Any]) -> None:
        self._scope = scope
        self._inner = inner

    def send(self, value: Any) -> Any:
        with self._scope:
            return self._inner.send(value)

    def throw(self, *error: Any) -> Any:
        with self._scope:
            return self._inner.throw(*error)


class _AsyncSteps(AsyncGenerator[Any, Any]):
    """The asynchronous twin of :class:`_Steps`."""

    def __init__(self, scope: Scope, inner: AsyncGenerator[Any, Any]) -> None:
        self._scope = scope
        self._inner = inner

    async def asend(self, value: Any) -> Any:
        with self._scope:
            return await self._inner.asend(value)

    async def athrow(self, *error: Any) -> Any:
        with self._scope:
            return await self._inner.athrow(*error)
