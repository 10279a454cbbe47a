"""Reads a YAML file into plain values and remembers the line of each.

Built on ruamel.yaml's node graph: nothing is executed, tags are refused, a key that stands twice is found, and every
mistake is collected instead of the first one only.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.error import MarkedYAMLError, YAMLError
from ruamel.yaml.nodes import MappingNode, Node, ScalarNode, SequenceNode

from llmguard.errors import Problem

Loc = tuple[str | int, ...]
"""Where a value stands in the configuration: keys and list positions."""

_MAX_NODES = 100_000
_PLAIN = "tag:yaml.org,2002:"
_TEXTS = {_PLAIN + kind for kind in ("str", "timestamp")}
_TAGS = _TEXTS | {_PLAIN + kind for kind in ("int", "float", "bool", "null", "map", "seq")}


@dataclass
class Document:
    """Plain values (dicts, lists, str, int, float, bool, None), where each stands, and what is wrong so far.

    ``places`` maps a location to a line of the file or to a variable's name. ``broken`` are locations whose value
    could not be had and has been reported.
    """

    name: str
    tree: dict[str, Any] = field(default_factory=dict)
    places: dict[Loc, str] = field(default_factory=dict)
    problems: list[Problem] = field(default_factory=list)
    broken: set[Loc] = field(default_factory=set)
    kept: dict[str, list[int]] = field(default_factory=dict)

    def where(self, loc: Loc) -> str:
        """The place of a value, or of the nearest thing around it that has one."""
        for end in range(len(loc), -1, -1):
            if (place := self.places.get(loc[:end])) is not None:
                return place
        return self.name

    def report(self, loc: Loc, message: str, fix: str) -> None:
        """Note a mistake at a location."""
        self.problems.append(Problem(self.where(loc), message, fix))


def dotted(loc: Loc) -> str:
    """`budgets[0].limit`."""
    text = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in loc)
    return text.removeprefix(".") or "the configuration"


def from_mapping(source: Mapping[str, Any]) -> Document:
    """A configuration given as a mapping (a settings dictionary, a test)."""
    document = Document("configuration")

    def plain(value: Any, loc: Loc) -> Any:
        document.places[loc] = dotted(loc)
        if isinstance(value, Mapping):
            return {str(key): plain(item, (*loc, str(key))) for key, item in value.items()}
        if isinstance(value, list | tuple):
            return [plain(item, (*loc, index)) for index, item in enumerate(value)]
        return value

    document.tree = plain(source, ())
    return document


def from_file(path: Path) -> Document:
    """A configuration file. What cannot be read at all is a problem too, never an exception."""
    document = Document(str(path))
    try:
        text = path.read_text("utf-8")
    except FileNotFoundError:
        document.report((), "there is no such file", "name an existing file with --config or LLMGUARD_CONFIG")
    except (OSError, UnicodeDecodeError) as error:
        document.report((), f"the file cannot be read ({error})", "give a UTF-8 file that this user may read")
    else:
        _parse(text, document)
    return document


def _parse(text: str, document: Document) -> None:
    try:
        root = YAML(typ="safe", pure=True).compose(text)
    except MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 1
        document.problems.append(
            Problem(f"{document.name}:{line}", f"this is not YAML: {error.problem}", "look at indentation and quotes")
        )
        return
    except YAMLError as error:
        document.report((), f"this is not YAML: {error}", "give a UTF-8 text file")
        return
    if root is None:
        return
    if not isinstance(root, MappingNode):
        document.report((), "the file holds no sections", "begin with a section, such as `server: {port: 8080}`")
        return
    document.tree = _Reader(document).mapping(root, ())


class _Reader:
    """Turns nodes into values. Anchors work; so that they cannot multiply without end, values are counted."""

    def __init__(self, document: Document) -> None:
        self._document = document
        self._count = 0

    def value(self, node: Node, loc: Loc) -> Any:
        self._document.places.setdefault(loc, self._line(node))
        self._count += 1
        if self._count > _MAX_NODES:
            if self._count == _MAX_NODES + 1:
                self._document.report(loc, f"there are more than {_MAX_NODES} values", "write fewer anchors")
            return None
        if str(node.tag) not in _TAGS:
            self._document.report(loc, f"{dotted(loc)} has the tag {str(node.tag)!r}", "write the value without a tag")
            self._document.broken.add(loc)
            return None
        if isinstance(node, MappingNode):
            return self.mapping(node, loc)
        if isinstance(node, SequenceNode):
            return [self.value(item, (*loc, index)) for index, item in enumerate(node.value)]
        if str(node.tag) in _TEXTS:
            return str(node.value)
        return YAML(typ="safe", pure=True).constructor.construct_object(node)

    def mapping(self, node: MappingNode, loc: Loc) -> dict[str, Any]:
        result: dict[str, Any] = {}
        for key_node, value_node in node.value:
            if not isinstance(key_node, ScalarNode) or key_node.tag == _PLAIN + "merge":
                self._document.problems.append(
                    Problem(
                        self._line(key_node), f"{dotted(loc)} has a key that is no plain word", "write each key out"
                    )
                )
                continue
            key = str(key_node.value)
            here = (*loc, key)
            if key in result:
                self._document.problems.append(
                    Problem(
                        self._line(key_node),
                        f"{dotted(here)} stands here a second time (first: {self._document.places[here]})",
                        "keep one of the two",
                    )
                )
                continue
            self._document.places[here] = self._line(key_node)
            result[key] = self.value(value_node, here)
        return result

    def _line(self, node: Node) -> str:
        return f"{self._document.name}:{node.start_mark.line + 1}"
