"""The closed route table: which path is which operation of which API, and what it touches at the provider.

``match`` is pure and knows only method and path. Paths without a prefix (`/v1/chat/completions`) are served for every
family; `/{upstream}/…` is the API of the configured provider of that name, where besides the rows of its family any
other POST is a pass-through. See :mod:`llmguard.providers.route_rows` for the rows and what the operations mean.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from llmguard.core.call import ObjectRef
from llmguard.errors import ConfigError, Problem
from llmguard.providers import route_rows

RESERVED = frozenset({"admin", "livez", "metrics", "readyz", "upload", "v1", "v1alpha", "v1beta"})
"""First path segments that are ours, so no provider may have such a name."""

UNKNOWN = "unknown"
"""The dialect of bodies that no other understands."""

_OPENAI_ROOTS = ("/v1/", "/openai/v1/", "/api/v1/", "/")
"""Where OpenAI-compatible providers put their API; the SDKs keep it in the base URL, which the guard's replaces."""
_PARAMETER = re.compile(r"\{(\w+)\}|\*")
_VERSION = re.compile(r"v1(?:beta)?/")


class Op(StrEnum):
    """What a route does, hence what it may cost and whom it can reach."""

    GENERATE = "generate"
    FREE = "free"
    MODELS = "models"
    OBJECT = "object"
    PASSTHROUGH = "passthrough"
    FORBIDDEN = "forbidden"


@dataclass(slots=True, eq=False)
class Route:
    """One matched request.

    ``endpoint`` is the template for the ledger, ``path`` what goes upstream (the caller's, without the ``upstream``
    prefix). ``model`` is the name that the path carries. ``objects`` are named by the path and must belong to the
    caller's team; ``deletes`` is the one among them that a DELETE removes, ``creates`` the kind a success makes.
    """

    op: Op
    family: str
    dialect: str
    endpoint: str
    path: str
    upstream: str | None = None
    model: str | None = None
    objects: tuple[ObjectRef, ...] = ()
    creates: str | None = None
    deletes: ObjectRef | None = None


@dataclass(frozen=True, slots=True)
class Row:
    """One line of the table. ``kinds`` names the path's parameters in order; "" is a segment nobody looks at."""

    method: str
    template: str
    op: Op
    family: str
    dialect: str
    creates: str | None
    kinds: tuple[str, ...] = field(init=False)

    def __post_init__(self) -> None:
        open_ended = self.template.endswith("**")
        object.__setattr__(self, "kinds", () if open_ended else tuple(_PARAMETER.findall(self.template)))

    def paths(self) -> Iterator[str]:
        """The templates under which the row is served: Google keeps several versions of one API."""
        yield self.template
        if self.family == "gemini":
            for version in ("v1", "v1alpha") if "v1beta/" in self.template else ("v1beta1",):
                yield _VERSION.sub(f"{version}/", self.template, count=1)

    def route(self, path: str, values: Iterable[str]) -> Route:
        """The route of a path whose parameters have these values."""
        route = Route(self.op, self.family, self.dialect, self.template, path, creates=self.creates)
        for kind, value in zip(self.kinds, values, strict=True):
            if kind == "model":
                route.model = value
            elif kind == "tuned":
                route.model = f"tunedModels/{value}"
            elif kind:
                route.objects += (ObjectRef(kind, value),)
        if self.method == "DELETE" and self.template.endswith("}"):
            route.deletes = route.objects[-1]
        return route


def parse_rows(text: str, family: str) -> Iterator[Row]:
    """The rows of one table of :mod:`llmguard.providers.route_rows`, one for each method."""
    for line in text.strip().splitlines():
        if not line:
            continue
        methods, template, op, *rest = line.split()
        creates = next((word[1:] for word in rest if word.startswith("+")), None)
        dialect = next((word for word in rest if not word.startswith("+")), UNKNOWN)
        for method in methods.split(","):
            yield Row(method, template, Op(op), family, dialect, creates)


def _words(path: str) -> list[str]:
    """The segments of a path; a custom verb (`models/m:generateContent`) is a word of its own."""
    words = path[1:].split("/")
    head, colon, verb = words[-1].rpartition(":")
    if colon:
        words[-1:] = [head, ":" + verb]
    return words


class _Node:
    """One segment of the tree. A fixed name wins over a parameter, both over a ``rest`` that takes what is left.

    ``spans`` marks the name of a model, in which slashes may stand: `models/sandbox/echo` is one of ours.
    """

    __slots__ = ("fixed", "parameter", "rest", "rows", "spans")

    def __init__(self, *, spans: bool = False) -> None:
        self.fixed: dict[str, _Node] = {}
        self.parameter: _Node | None = None
        self.rest: Row | None = None
        self.rows: dict[str, Row] = {}
        self.spans = spans

    def add(self, row: Row, path: str) -> None:
        node, before = self, ""
        for word in _words(path):
            if word == "**":
                node.rest = row
                return
            if _PARAMETER.fullmatch(word):
                node.parameter = node.parameter or _Node(spans=before == "models")
                node = node.parameter
            else:
                node = node.fixed.setdefault(word, _Node())
            before = word
        node.rows[row.method] = row

    def find(self, method: str, path: str) -> Route | None:
        node: _Node | None = self
        rest: Row | None = None
        values: list[str] = []
        for segment in path[1:].split("/"):
            assert node is not None
            rest = node.rest or rest
            node = node.step(segment, values)
            if node is None:
                return rest.route(path, ()) if rest is not None else None
        assert node is not None
        row = node.rows.get(method) or node.rows.get("ANY")
        if row is not None:
            return row.route(path, values)
        rest = node.rest or rest
        return rest.route(path, ()) if rest is not None else None

    def step(self, segment: str, values: list[str]) -> _Node | None:
        """The node after a segment; what stands for a parameter is added to ``values``."""
        if not segment or segment[0] == ":":
            return None
        fixed = self.fixed.get(segment)
        if fixed is not None:
            return fixed
        following = self if self.spans else self.parameter
        head, colon, verb = segment.rpartition(":")
        if colon:
            named = self.fixed.get(head)
            parent = named or following
            with_verb = parent.fixed.get(colon + verb) if parent is not None else None
            if with_verb is not None:
                if named is None:
                    self._take(head, values)
                return with_verb
        self._take(segment, values)
        return following

    def _take(self, text: str, values: list[str]) -> None:
        if self.spans:
            values[-1] += "/" + text
        else:
            values.append(text)


_TABLES = {
    "openai": (route_rows.OPENAI, route_rows.AZURE),
    "anthropic": (route_rows.ANTHROPIC, ""),
    "gemini": (route_rows.GEMINI, route_rows.VERTEX),
}
ROWS: dict[str, tuple[Row, ...]] = {family: tuple(parse_rows(own, family)) for family, (own, _) in _TABLES.items()}
"""The rows served without a prefix."""
UPSTREAM_ROWS: dict[str, tuple[Row, ...]] = {
    family: tuple(parse_rows(hosted, family)) for family, (_, hosted) in _TABLES.items()
}
"""The rows served only under a provider's name: the same API as a cloud hosts it."""

_ORDER: dict[str | None, tuple[str, ...]] = {
    None: tuple(_TABLES),
    **{spoken: (spoken, *(family for family in _TABLES if family != spoken)) for spoken in _TABLES},
}
_METERED_WORDS = frozenset(
    _words(row.template)[-1].lower()
    for rows in (*ROWS.values(), *UPSTREAM_ROWS.values())
    for row in rows
    if row.op is Op.GENERATE
)
"""What the paths of metered operations end with. No pass-through may, however the rest is spelled."""


class RouteTable:
    """All routes of one configuration.

    ``providers`` maps the configured names to their families. Raises :class:`~llmguard.errors.ConfigError` for a name
    that is the first segment of one of our own paths, and for a family without routes.
    """

    def __init__(self, providers: Mapping[str, str]) -> None:
        problems = list(_problems(providers))
        if problems:
            raise ConfigError(problems)
        self._providers = dict(providers)
        self._plain = {family: _tree(ROWS[family]) for family in _TABLES}
        self._hosted = {family: _tree((*ROWS[family], *UPSTREAM_ROWS[family])) for family in _TABLES}
        self._metered = _tree(row for rows in ROWS.values() for row in rows if row.op is Op.GENERATE)
        self._exact = {spoken: _fixed_paths(families) for spoken, families in _ORDER.items()}

    def match(self, method: str, path: str, spoken: str | None = None) -> Route | None:
        """The route of a request, None where nothing is served. Treat it as read-only: some are shared.

        ``path`` is without mount prefix and query; an escaped character (`%3A`) never stands for a fixed one.
        ``spoken`` is the family of the caller's SDK (see :func:`spoken_family`); it decides only where several
        families have the same path (`/v1/models`, `/v1/files`).
        """
        found = self._exact[spoken].get((method, path))
        if found is not None:
            return found
        name, slash, rest = path[1:].partition("/")
        family = self._providers.get(name)
        if family is not None and slash:
            return self._under(name, family, method, slash + rest)
        for family in _ORDER[spoken]:
            found = self._plain[family].find(method, path)
            if found is not None:
                return found
        return None

    def _under(self, upstream: str, family: str, method: str, path: str) -> Route:
        """The route of `/{upstream}/…`: the provider's own API, else another one it also speaks, else unknown."""
        own = self._hosted[family]
        route = own.find(method, path)
        if route is None and family == "openai":
            root = next(root for root in _OPENAI_ROOTS if path.startswith(root))
            route = own.find(method, "/v1/" + path[len(root) :])
        route = route or self._metered.find(method, path) or _unlisted(family, method, path)
        route.upstream = upstream
        return route


def _tree(rows: Iterable[Row]) -> _Node:
    tree = _Node()
    for row in rows:
        for path in row.paths():
            tree.add(row, path)
    return tree


def _fixed_paths(families: Iterable[str]) -> dict[tuple[str, str], Route]:
    """Routes without parameters, made once; of a shared path the first family's."""
    table: dict[tuple[str, str], Route] = {}
    for row in (row for family in families for row in ROWS[family]):
        if "*" not in row.template and "{" not in row.template:
            for path in row.paths():
                table.setdefault((row.method, path), row.route(path, ()))
    return table


def _unlisted(family: str, method: str, path: str) -> Route:
    """A path of a provider that the table does not know: only a POST may pass, and never a metered one in disguise.

    Reads are refused because they may reach another team's objects. The ledger's endpoint keeps two segments, so that
    new endpoints are seen without a label for every id.
    """
    segments = path.split("/")
    endpoint = "/".join(segments[:3]) + ("/*" if len(segments) > 3 else "")
    disguised = "%" in path or _words(path.rstrip("/").lower())[-1] in _METERED_WORDS
    op = Op.PASSTHROUGH if method == "POST" and not disguised else Op.FORBIDDEN
    return Route(op, family, UNKNOWN, endpoint, path)


def _problems(providers: Mapping[str, str]) -> Iterator[Problem]:
    for name, family in providers.items():
        if name in RESERVED:
            message = f"{name!r} is the first segment of paths that llmguard itself serves"
            yield Problem(f"providers.{name}", message, f"choose another name, such as my-{name}")
        if family not in _TABLES:
            known = ", ".join(_TABLES)
            yield Problem(f"providers.{name}.dialect", f"{family!r} is no family of APIs", f"write one of {known}")


def spoken_family(headers: Mapping[str, str]) -> str | None:
    """The family that a caller's SDK shows in its headers; None where only the path can tell."""
    if "anthropic-version" in headers:
        return "anthropic"
    if "x-goog-api-client" in headers or "x-goog-api-key" in headers:
        return "gemini"
    return None
