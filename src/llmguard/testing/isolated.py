"""A guard of a test's own, which shares nothing with other tests, other processes or the network."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final, Literal

from pydantic import SecretStr

from llmguard.config import Config, Provider, load
from llmguard.config.loading import Source
from llmguard.config.sections import SecretKeys, SpoolFiles
from llmguard.guard import Guard, chosen
from llmguard.testing.provider import FakeProvider

_FAMILIES: Final[tuple[Literal["openai", "anthropic", "gemini"], ...]] = ("openai", "anthropic", "gemini")
_PROVIDERS: Final = {family: {"dialect": family, "keys": ["fake"]} for family in _FAMILIES}


@contextmanager
def isolated_guard(
    config: Source = None,
    *,
    home: Path | None = None,
    provider: FakeProvider | None = None,
    instrument: bool = False,
) -> Iterator[Guard]:
    """A guard with its quotas in memory and its ledger and spool below ``home`` (a temporary directory unless given);
    inside it is the default one.

    ``config`` is a path or a mapping with the rules to test; without it there are none but those that always hold. A
    mapping without providers gets those of OpenAI, Anthropic and Google, by the names of their families. What reaches
    outside is left out: store, ledger, spool, secrets, alerts and gateway. With a ``provider`` all configured providers
    are there, and one of each family that has none. With ``instrument`` the process's SDK clients are guarded inside.
    Raises :class:`llmguard.errors.ConfigError`.
    """
    if home is None:
        with (
            tempfile.TemporaryDirectory(prefix="llmguard-") as made,
            isolated_guard(config, home=Path(made), provider=provider, instrument=instrument) as guard,
        ):
            yield guard
        return
    if config is None or isinstance(config, Mapping):
        config = {"providers": _PROVIDERS} | dict(config or {})
    guard = Guard(_isolated(load(config), home, provider))
    try:
        with chosen(guard), _instrumented(guard, wanted=instrument):
            yield guard
    finally:
        guard.close()


def _isolated(config: Config, home: Path, provider: FakeProvider | None) -> Config:
    alone: dict[str, Any] = {
        "store": "memory://",
        "ledger": f"sqlite:///{home / 'ledger.db'}",
        "spool": SpoolFiles(path=str(home / "spool")),
        "secrets": SecretKeys(),
        "alerts": (),
        "gateway": None,
    }
    if provider is not None:
        alone["providers"] = _led_to(provider, config)
    return config.model_copy(update=alone)


def _led_to(fake: FakeProvider, config: Config) -> dict[str, Provider]:
    """The configured providers at the fake's address, and those of the families that are missing."""
    there = dict(config.providers)
    for family in _FAMILIES:
        if not any(provider.dialect == family for provider in there.values()):
            there[family] = Provider(dialect=family, default=True)
    return {name: provider.model_copy(update=_address(fake, provider)) for name, provider in there.items()}


def _address(fake: FakeProvider, provider: Provider) -> dict[str, Any]:
    if provider.dialect == "sandbox":
        return {}
    url = fake.openai_url if provider.dialect == "openai" else fake.url
    return {"base_url": url, "internal": True, "keys": provider.keys or (SecretStr("fake"),)}


@contextmanager
def _instrumented(guard: Guard, *, wanted: bool) -> Iterator[None]:
    from llmguard.integrations.httpx import instrument, uninstrument  # noqa: PLC0415  nobody else needs the SDKs' doors

    if not wanted:
        yield
        return
    instrument(guard)
    try:
        yield
    finally:
        uninstrument()
