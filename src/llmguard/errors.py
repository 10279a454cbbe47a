"""Every error of llmguard, in one tree.

::

    LLMGuardError
    ├── ConfigError            wrong configuration; carries the list of problems
    ├── BadCall                a caller's request cannot be understood (4xx in the dialect's shape)
    ├── GuardUnavailable       the guard itself cannot decide or record (503)
    │   ├── StoreUnavailable   quota store silent or gone
    │   ├── LedgerUnavailable  SQL ledger gone, or its schema is behind
    │   └── SpoolFull          no room left to record spend
    ├── Refused                the guard decided against it
    │   ├── BudgetExceeded     no money or tokens are left, or not enough for this (429)
    │   ├── RateLimited        too many at once or in a short time; wait and try again (429)
    │   └── RunawayTripped     a rule of the runaway guard has stopped the task, the tree or the feature (403)
    │       └── RunawayTaskAborted   how a background task ends that was stopped
    └── UpstreamError          the provider could not be reached or broke the protocol (502/504)

Within the guard a refusal is not an error but a :class:`llmguard.core.decision.Refuse` value. :class:`TaskAborted`
stands outside the tree, so that no ``except Exception`` of a runaway task can catch it.
"""

from __future__ import annotations

from dataclasses import dataclass


class LLMGuardError(Exception):
    """Base of all errors raised by llmguard."""

    status = 500
    retryable = False


@dataclass(frozen=True, slots=True)
class Problem:
    """One mistake in a configuration: where it stands, what is wrong, and what to write instead."""

    where: str
    message: str
    fix: str

    def __str__(self) -> str:
        return f"{self.where}: {self.message}; {self.fix}"


class ConfigError(LLMGuardError):
    """The configuration is wrong; ``problems`` names each mistake. Nothing was started."""

    def __init__(self, problems: list[Problem]) -> None:
        super().__init__("\n".join(str(p) for p in problems))
        self.problems = problems


class BadCall(LLMGuardError):
    """The caller's request cannot be understood or is not allowed in this form.

    ``code`` is a short machine-readable word, ``param`` the offending field where one can be named.
    """

    def __init__(self, message: str, *, code: str = "invalid_request", status: int = 400, param: str | None = None):
        super().__init__(message)
        self.message = message
        self.code = code
        self.status = status
        self.param = param


class GuardUnavailable(LLMGuardError):
    """The guard cannot decide or record right now; the call was not sent. Try again."""

    status = 503
    retryable = True


class StoreUnavailable(GuardUnavailable):
    """The quota store did not answer in time."""


class LedgerUnavailable(GuardUnavailable):
    """The SQL ledger cannot be reached, or its schema is older than this program."""


class SpoolFull(GuardUnavailable):
    """No room is left to record spend, so no new call is admitted (`accounting_unavailable`)."""


class Refused(LLMGuardError):
    """The guard decided against it; the message says why and until when."""

    status = 429


class BudgetExceeded(Refused):
    """No money or tokens are left in a budget, or not enough for this."""


class RateLimited(Refused):
    """Too many requests at once or in a short time. Wait, then try again."""

    retryable = True


class RunawayTripped(Refused):
    """A rule of the runaway guard has stopped what this belongs to; `llmguard trips list` shows it."""

    status = 403


class RunawayTaskAborted(RunawayTripped):
    """What a background task that was stopped ends with. Takes one argument, the message: two do not survive JSON."""


class UpstreamError(LLMGuardError):
    """The provider could not be reached, timed out, or broke HTTP.

    ``sent`` is False only when it is certain that not one byte of the request left this process, so that the call
    cannot have been billed.
    """

    status = 502
    retryable = True

    def __init__(self, message: str, *, sent: bool, status: int = 502) -> None:
        super().__init__(message)
        self.sent = sent
        self.status = status


class TaskAborted(BaseException):
    """Ends the body of a background task that the runaway guard has stopped; passes through ``except Exception``."""
