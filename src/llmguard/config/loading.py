"""From a file, a mapping or nothing to a checked configuration, with every mistake in one list."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from pydantic import ValidationError

from llmguard.config.checks import check as check_whole
from llmguard.config.document import Document, from_file, from_mapping
from llmguard.config.environment import Environment, expand, overlay
from llmguard.config.problems import error_loc, report_errors
from llmguard.config.schema import Config
from llmguard.config.units import Wrong
from llmguard.errors import ConfigError, Problem

Source = Path | str | Mapping[str, Any] | None

DEFAULT_FILE: Final = Path("llmguard.yaml")
_FAMILY_KEYS: Final = {"openai": "OPENAI_API_KEY", "anthropic": "ANTHROPIC_API_KEY", "gemini": "GEMINI_API_KEY"}


def load(source: Source = None, env: Mapping[str, str] = os.environ) -> Config:
    """The configuration in ``source``: a file, a mapping, or None for `LLMGUARD_CONFIG`, `./llmguard.yaml`, or nothing.

    With nothing, and no `LLMGUARD_PROVIDERS…` variable either, it is development mode: SQLite and memory, the sandbox
    provider, and providers for which `OPENAI_API_KEY`, `ANTHROPIC_API_KEY` or `GEMINI_API_KEY` is set. Reads files and
    ``env``, starts and writes nothing. Raises :class:`llmguard.errors.ConfigError` with every problem found.
    """
    config, problems = _read(source, env)
    if problems:
        raise ConfigError(problems)
    return config


def check(source: Source = None, env: Mapping[str, str] = os.environ) -> list[Problem]:
    """Every mistake in a configuration, in the order of its lines; none: an empty list."""
    return _read(source, env)[1]


def _read(source: Source, env: Mapping[str, str]) -> tuple[Config, list[Problem]]:
    environment = Environment(env)
    document, development = _document(source, env, environment)
    set_by_variable = overlay(document, environment, Config.model_fields)
    expand(document, environment, but=set_by_variable)
    config = _validate(document)
    config._development = development
    check_whole(config, document)
    return config, sorted(document.problems, key=_line)


def place(source: Source | Config, env: Mapping[str, str] = os.environ) -> str:
    """Where :func:`load` finds a configuration: a file's path, or in words."""
    if isinstance(source, Config):
        return "a mapping"
    found = _found(source, env)
    if isinstance(found, Mapping):
        return "a mapping"
    return "no file" if found is None else str(Path(found).absolute())


def _found(source: Source, env: Mapping[str, str]) -> Source:
    if source is None:
        source = env.get("LLMGUARD_CONFIG") or (DEFAULT_FILE if DEFAULT_FILE.exists() else None)
    return source


def _document(source: Source, env: Mapping[str, str], environment: Environment) -> tuple[Document, bool]:
    source = _found(source, env)
    if isinstance(source, Mapping):
        return from_mapping(source), False
    if source is not None:
        return from_file(Path(source)), False
    if any(keys[0] == "providers" for keys in environment.overrides(Config.model_fields).values()):
        return Document("the environment"), False
    return _development(environment), True


def _development(environment: Environment) -> Document:
    document = Document("development mode")
    providers: dict[str, Any] = {"sandbox": {"dialect": "sandbox"}}
    for family, variable in _FAMILY_KEYS.items():
        document.places["providers", family] = variable
        try:
            key = environment.get(variable)
        except Wrong as error:
            document.report(("providers", family), f"{variable} is {error.why}", error.fix)
        else:
            if key is not None:
                providers[family] = {"dialect": family, "keys": [key], "default": True}
    document.tree["providers"] = providers
    return document


def _validate(document: Document) -> Config:
    """The parts that are right by themselves; what is wrong is reported and left out."""
    try:
        return Config.model_validate(_sound(document))
    except ValidationError as error:
        details = error.errors(include_url=False)
    report_errors(document, details)
    document.broken.update(error_loc(detail) for detail in details)
    return Config.model_validate(_sound(document))


def _sound(document: Document) -> dict[str, Any]:
    """The document's tree without sections and entries that are broken; notes which list entries were kept."""
    bad = {loc[:2] for loc in document.broken}
    tree: dict[str, Any] = {}
    for section, value in document.tree.items():
        if (section,) in bad:
            continue
        if isinstance(value, dict):
            tree[section] = {key: item for key, item in value.items() if (section, key) not in bad}
        elif isinstance(value, list):
            document.kept[section] = [index for index in range(len(value)) if (section, index) not in bad]
            tree[section] = [value[index] for index in document.kept[section]]
        else:
            tree[section] = value
    return tree


def _line(problem: Problem) -> tuple[str, int]:
    name, _, line = problem.where.rpartition(":")
    return (name, int(line)) if line.isdigit() else (problem.where, 0)
