"""From the model name a caller wrote to a provider and the name it knows."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from llmguard.core.call import Call
from llmguard.core.decision import Refuse, Target

_REMEMBER = 1_024
ANY_FAMILY = "sandbox"
"""A provider of this family answers in whatever dialect it is spoken to."""


@dataclass(frozen=True, slots=True)
class Provider:
    """What routing needs of a provider. ``fee_nano`` opens requests that cannot be metered, at this price."""

    family: str
    default: bool = False
    fee_nano: int | None = None


class Routing:
    """`provider/model` always works, then the configured aliases, then the spoken family's default provider."""

    def __init__(self, providers: Mapping[str, Provider], aliases: Mapping[str, tuple[str, str]]) -> None:
        self._providers = dict(providers)
        self._aliases = dict(aliases)
        families = {provider.family for provider in providers.values()}
        self._defaults = {family: self._default(family) for family in families}
        self._known: dict[tuple[str | None, str, str], Target] = {}

    def _default(self, family: str) -> str | None:
        names = [name for name, provider in self._providers.items() if provider.family == family]
        marked = [name for name in names if self._providers[name].default]
        return marked[0] if marked else names[0] if len(names) == 1 else None

    def target(self, call: Call) -> Target | Refuse:
        """The target of a call; 400 `wrong_dialect` or 404 `unknown_model` where there is none."""
        asked = (call.upstream, call.family, call.model)
        known = self._known.get(asked)
        if known is not None:
            return known
        found = self._choose(call)
        if isinstance(found, Target):
            if len(self._known) >= _REMEMBER:
                self._known.clear()
            self._known[asked] = found
        return found

    def _choose(self, call: Call) -> Target | Refuse:
        name, model = self._find(call)
        if name is None:
            return Refuse(
                "unknown_model",
                404,
                f"no provider here is the default for the {call.family} API, so {model or 'this request'!r} goes "
                "nowhere; name one as provider/model, for instance sandbox/echo",
                param="model",
            )
        provider = self._providers[name]
        if provider.family not in (call.family, ANY_FAMILY):
            return Refuse(
                "wrong_dialect",
                400,
                f"{name!r} speaks the {provider.family} API, and this request came in the {call.family} one; "
                f"send it to the {provider.family} routes",
                param="model",
            )
        return Target(name, model, provider.fee_nano)

    def _find(self, call: Call) -> tuple[str | None, str]:
        model = call.model
        if call.upstream is not None:
            return call.upstream, model
        head, slash, rest = model.partition("/")
        if slash and head in self._providers:
            return head, rest
        alias = self._aliases.get(model)
        if alias is not None:
            return alias
        default = self._defaults.get(call.family)
        if default is None and not model:
            default = self._defaults.get(ANY_FAMILY)  # files and stored responses, where there is nobody else
        return default, model
