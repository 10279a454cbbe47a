"""Variables: `${VAR}` inside values, and `LLMGUARD_…__…` over any key.

Wherever a variable NAME is looked up, NAME_FILE may name a file that holds its value, as container secrets do.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Final

from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from llmguard.config.document import Document, Loc, dotted
from llmguard.config.units import Wrong

PREFIX: Final = "LLMGUARD_"
_FILE: Final = "_FILE"
_MAX_FILE: Final = 65_536
_REFERENCE = re.compile(r"\$\$\{|\$\{([A-Za-z_][A-Za-z0-9_]*)(?::-([^}]*))?\}|\$\{")


class Environment:
    """Environment variables, with `NAME_FILE` standing in for `NAME`."""

    def __init__(self, variables: Mapping[str, str]) -> None:
        self._variables = variables

    def get(self, name: str) -> str | None:
        """The value of a variable, None when it is neither set nor named by a file. An empty one counts as not set.

        Raises :class:`Wrong` when its file cannot be read, or when both are set.
        """
        value = self._variables.get(name) or None
        path = self._variables.get(name + _FILE)
        if not path:
            return value
        if value is not None:
            raise Wrong(f"set twice, as {name} and as {name + _FILE}", "unset one of the two")
        return _read(name + _FILE, path)

    def overrides(self, roots: Iterable[str]) -> dict[str, tuple[str, ...]]:
        """Names of the set variables that speak about the configuration, with the keys they name in lower case.

        With `__` in it every variable of ours does; without, only one that names a root key.
        """
        found = {}
        for variable, value in self._variables.items():
            name = variable.removeprefix(PREFIX)
            if name == variable or not value:
                continue
            keys = tuple(name.removesuffix(_FILE).lower().split("__"))
            if len(keys) > 1 or keys[0] in roots:
                found[variable.removesuffix(_FILE)] = keys
        return found


def _read(variable: str, path: str) -> str:
    try:
        text = Path(path).read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise Wrong(f"to be read from a file that cannot be read ({error})", f"let {variable} name one") from None
    if not text.strip() or len(text) > _MAX_FILE:
        raise Wrong(f"to be read from {path!r}, which is empty or too long", f"let {variable} name a file") from None
    return text.rstrip("\r\n")


def expand(document: Document, environment: Environment, *, but: set[Loc]) -> None:
    """Replace `${VAR}` and `${VAR:-default}` in every value; `$${` is a literal `${`. Missing ones are reported.

    Values at the locations ``but`` are left as they are: they came from variables themselves.
    """

    def walk(value: Any, loc: Loc) -> Any:
        if loc in but:
            return value
        if isinstance(value, dict):
            return {key: walk(item, (*loc, key)) for key, item in value.items()}
        if isinstance(value, list):
            return [walk(item, (*loc, index)) for index, item in enumerate(value)]
        if not isinstance(value, str) or "${" not in value:
            return value
        try:
            return _REFERENCE.sub(lambda found: _resolve(found, environment), value)
        except Wrong as error:
            document.report(loc, f"{dotted(loc)} is {error.why}", error.fix)
            document.broken.add(loc)
            return None

    document.tree = walk(document.tree, ())


def _resolve(found: re.Match[str], environment: Environment) -> str:
    whole, name, default = found[0], found[1], found[2]
    if whole == "$${":
        return "${"
    if name is None:
        raise Wrong("written with a reference that is not closed", "write ${NAME} or ${NAME:-default}, or $${ for ${")
    value = environment.get(name)
    if value is None:
        value = default
    if value is None:
        raise Wrong(
            f"to come from the variable {name}, which is not set",
            f"set {name} (or {name}{_FILE}), or give a default: ${{{name}:-…}}",
        )
    return value


def overlay(document: Document, environment: Environment, roots: Iterable[str]) -> set[Loc]:
    """Lay the `LLMGUARD_…` variables over the document; a value in JSON may replace a whole section or list.

    Returns the locations that were set.
    """
    done = set()
    for variable, keys in sorted(environment.overrides(roots).items()):
        loc = _resolved(document.tree, keys)
        done.add(loc)
        for end in range(1, len(loc)):
            document.places.setdefault(loc[:end], variable)
        document.places[loc] = variable
        try:
            value = environment.get(variable)
            _put(document, loc, _decoded(value) if value is not None else None)
        except Wrong as error:
            document.report(loc, f"{dotted(loc)} is {error.why}", error.fix)
            document.broken.add(loc)
    return done


def _decoded(text: str) -> Any:
    if not text.lstrip().startswith(("{", "[")):
        return text
    try:
        return YAML(typ="safe", pure=True).load(text)
    except YAMLError:
        raise Wrong("neither a word nor JSON", 'write a list as ["a", "b"] and a mapping as {"a": 1}') from None


def _resolved(tree: Any, keys: tuple[str, ...]) -> Loc:
    """The location that a variable's keys name: existing names are found whatever their case and punctuation."""
    loc: list[str | int] = []
    node = tree
    for key in keys:
        if isinstance(node, list) and key.isdigit():
            loc.append(int(key))
            node = node[int(key)] if int(key) < len(node) else None
            continue
        names = node if isinstance(node, dict) else {}
        name = next((n for n in names if re.sub(r"[^a-z0-9]", "_", n.lower()) == key), key)
        loc.append(name)
        node = names.get(name)
    return tuple(loc)


def _put(document: Document, loc: Loc, value: Any) -> None:
    node: Any = document.tree
    for depth, key in enumerate(loc[:-1]):
        below = node.get(key) if isinstance(node, dict) else _item(node, key)
        if not isinstance(below, dict | list):
            if not isinstance(node, dict):
                raise Wrong("named by a variable inside a value", f"set {dotted(loc[: depth + 1])} as a whole")
            below = node[key] = {}
        node = below
    last = loc[-1]
    if isinstance(node, dict):
        node[str(last)] = value
    elif isinstance(last, int) and last < len(node):
        node[last] = value
    elif isinstance(last, int) and last == len(node):
        node.append(value)
    else:
        raise Wrong("named by a variable but is no item of the list", f"count from 0 to {len(node)}")


def _item(items: list[Any], index: str | int) -> Any:
    return items[index] if isinstance(index, int) and index < len(items) else None
