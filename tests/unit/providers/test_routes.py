"""The route table against the paths that the official SDKs really call, and against paths that try to get round it."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import anthropic
import openai
import pytest
from google import genai

from llmguard.core.call import ObjectRef
from llmguard.errors import ConfigError
from llmguard.providers.routes import ROWS, UPSTREAM_ROWS, Op, RouteTable, spoken_family

PROVIDERS = {
    "openai": "openai",
    "groq": "openai",
    "azure": "openai",
    "anthropic": "anthropic",
    "gemini": "gemini",
    "vertex": "gemini",
}
TABLE = RouteTable(PROVIDERS)
VERBS = {"_get": "GET", "_post": "POST", "_delete": "DELETE", "_put": "PUT", "_patch": "PATCH", "_get_api_list": "GET"}


def literal(node: ast.expr | None) -> str | None:
    """The path in `self._get("/x")` or `self._get(path_template("/x/{id}"))`."""
    if isinstance(node, ast.Call) and node.args:
        node = node.args[0]
    return node.value if isinstance(node, ast.Constant) and isinstance(node.value, str) else None


def stainless_paths(root: Path, prefix: str) -> set[tuple[str, str]]:
    """Every (method, path template) in the resources of an SDK."""
    found = set()
    for file in root.rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr in VERBS:
                path = literal(node.args[0] if node.args else None)
                if path is not None and path.startswith("/"):
                    method = VERBS[node.func.attr]
                    if any(k.arg == "method" and literal(k.value) == "post" for k in node.keywords):
                        method = "POST"
                    found.add((method, prefix + path.partition("?")[0]))
    return found


def genai_paths() -> Iterator[tuple[str, str]]:
    """The (method, path) pairs of the newer, generated half of google-genai."""
    for file in (Path(genai.__file__).parent / "_gaos").glob("*.py"):
        for method, path in re.findall(r'method="(\w+)",\s+path="([^"]+)"', file.read_text()):
            yield method, path.replace("{api_version}", "v1beta")


def filled(path: str) -> str:
    return re.sub(r"\{\w+\}", "id-1", path)


SDK_PATHS = [
    *(("openai", m, p) for m, p in sorted(stainless_paths(Path(openai.__file__).parent / "resources", "/v1"))),
    *(("anthropic", m, p) for m, p in sorted(stainless_paths(Path(anthropic.__file__).parent / "resources", ""))),
    *(("gemini", m, p) for m, p in sorted(genai_paths())),
]


def test_the_sdks_were_read() -> None:
    assert len(SDK_PATHS) > 500


def test_every_path_of_the_sdks_is_in_the_table() -> None:
    missing = [(m, p) for family, m, p in SDK_PATHS if TABLE.match(m, filled(p), family) is None]
    assert missing == []


def test_no_sdk_path_lists_across_tenants() -> None:
    """What is read without naming an object of the caller must be forbidden, or the guard's own list of models."""
    leaks = []
    for family, method, path in SDK_PATHS:
        route = TABLE.match(method, filled(path), family)
        assert route is not None
        if method == "GET" and not route.objects and route.op not in (Op.FORBIDDEN, Op.MODELS):
            leaks.append((method, path, route.op))
    assert leaks == []


def test_every_object_operation_names_or_makes_an_object() -> None:
    for rows in (*ROWS.values(), *UPSTREAM_ROWS.values()):
        for row in rows:
            if row.op is Op.OBJECT:
                kinds = [kind for kind in row.kinds if kind not in ("", "model", "tuned")]
                assert kinds or row.creates, row


@pytest.mark.parametrize("part", ["organization", "organizations", "realtime", "evals", "sessions", "vaults", "agents"])
@pytest.mark.parametrize("method", ["GET", "POST", "DELETE"])
def test_administration_is_forbidden_with_and_without_a_prefix(part: str, method: str) -> None:
    for path in (f"/v1/{part}", f"/v1/{part}/x/y"):
        route = TABLE.match(method, path)
        assert route is not None
        assert route.op is Op.FORBIDDEN
    family = "anthropic" if part in ("organizations", "sessions") else "openai"
    route = TABLE.match(method, f"/{family}/v1/{part}/x")
    assert route is not None
    assert route.op is Op.FORBIDDEN


@pytest.mark.parametrize(
    ("method", "path", "op", "dialect", "model"),
    [
        ("POST", "/v1/chat/completions", "generate", "openai_chat", None),
        ("POST", "/v1/responses", "generate", "openai_responses", None),
        ("POST", "/v1/embeddings", "generate", "openai_embeddings", None),
        ("POST", "/v1/messages", "generate", "anthropic_messages", None),
        ("POST", "/v1/messages/count_tokens", "free", "anthropic_messages", None),
        ("POST", "/v1beta/models/gemini-2.5-pro:generateContent", "generate", "gemini_generate", "gemini-2.5-pro"),
        ("POST", "/v1/models/gemini-2.5-pro:streamGenerateContent", "generate", "gemini_generate", "gemini-2.5-pro"),
        ("POST", "/v1alpha/models/gemini-2.5-pro:countTokens", "free", "gemini_generate", "gemini-2.5-pro"),
        ("POST", "/v1beta/models/e-1:batchEmbedContents", "generate", "gemini_embed", "e-1"),
        ("POST", "/v1beta/tunedModels/t-1:generateContent", "generate", "gemini_generate", "tunedModels/t-1"),
        ("GET", "/v1/models", "models", "unknown", None),
        ("GET", "/v1/models/ft:gpt-4o:org::abc", "models", "unknown", "ft:gpt-4o:org::abc"),
        ("POST", "/v1/moderations", "free", "unknown", None),
        ("POST", "/v1/images/generations", "passthrough", "unknown", None),
        ("POST", "/v1/audio/transcriptions", "passthrough", "unknown", None),
        ("POST", "/v1/files", "passthrough", "unknown", None),
        ("POST", "/v1/messages/batches", "passthrough", "unknown", None),
        ("POST", "/v1beta/interactions", "passthrough", "unknown", None),
        ("POST", "/v1/fine_tuning/alpha/graders/run", "forbidden", "unknown", None),
        ("GET", "/v1/batches", "forbidden", "unknown", None),
        ("DELETE", "/v1/models/ft:gpt-4o:org::abc", "forbidden", "unknown", None),
        ("POST", "/v1beta/tunedModels", "forbidden", "unknown", None),
    ],
)
def test_operations(method: str, path: str, op: str, dialect: str, model: str | None) -> None:
    route = TABLE.match(method, path)
    assert route is not None
    assert (route.op, route.dialect, route.model, route.upstream) == (op, dialect, model, None)
    assert route.path == path


@pytest.mark.parametrize(
    ("method", "path", "objects", "creates", "deletes"),
    [
        ("POST", "/v1/conversations", (), "conversation", None),
        ("GET", "/v1/conversations/conv_1/items/msg_1", (("conversation", "conv_1"),), None, None),
        ("DELETE", "/v1/conversations/conv_1/items/msg_1", (("conversation", "conv_1"),), None, None),
        ("DELETE", "/v1/conversations/conv_1", (("conversation", "conv_1"),), None, ("conversation", "conv_1")),
        ("POST", "/v1/uploads/upload_1/complete", (("upload", "upload_1"),), "file", None),
        ("POST", "/v1beta/files", (), "file", None),
        ("GET", "/v1beta/files/abc:download", (("file", "abc"),), None, None),
        ("DELETE", "/v1beta/cachedContents/abc", (("cached_content", "abc"),), None, ("cached_content", "abc")),
        ("POST", "/v1beta/batches/b1:cancel", (("batch", "b1"),), None, None),
        ("GET", "/v1/messages/batches/mb_1/results", (("message_batch", "mb_1"),), None, None),
    ],
)
def test_objects_that_a_path_names(
    method: str, path: str, objects: tuple[tuple[str, str], ...], creates: str | None, deletes: tuple[str, str] | None
) -> None:
    route = TABLE.match(method, path)
    assert route is not None
    assert route.objects == tuple(ObjectRef(*pair) for pair in objects)
    assert route.creates == creates
    assert route.deletes == (None if deletes is None else ObjectRef(*deletes))


@pytest.mark.parametrize(
    ("method", "path", "endpoint", "model"),
    [
        (
            "POST",
            "/v1beta/models/sandbox/echo:generateContent",
            "/v1beta/models/{model}:generateContent",
            "sandbox/echo",
        ),
        (
            "POST",
            "/v1/models/router/meta/llama:3:streamGenerateContent",
            "/v1beta/models/{model}:streamGenerateContent",
            "router/meta/llama:3",
        ),
        ("GET", "/v1beta/models/sandbox/echo", "/v1beta/models/{model}", "sandbox/echo"),
        ("GET", "/v1/models/sandbox/echo", "/v1/models/{model}", "sandbox/echo"),
        ("DELETE", "/v1/models/ft:a/b", "/v1/models/*", None),
        ("GET", "/v1beta/models/sandbox/echo/operations/o1", "/v1beta/models/*/operations/{operation}", None),
        (
            "POST",
            "/vertex/v1/publishers/google/models/local/m1:generateContent",
            "/v1/publishers/google/models/{model}:generateContent",
            "local/m1",
        ),
    ],
)
def test_the_name_of_a_model_may_have_slashes(method: str, path: str, endpoint: str, model: str | None) -> None:
    route = TABLE.match(method, path, "gemini" if "beta" in path else None)
    assert route is not None
    assert (route.endpoint, route.model) == (endpoint, model)


def test_other_names_may_not_and_verbs_stand_at_the_end_of_a_name() -> None:
    for method, path in (
        ("GET", "/v1beta/files/a/b:download"),
        ("POST", "/v1beta/batches/a/b:cancel"),
        ("POST", "/v1beta/models/:generateContent"),
        ("POST", "/v1beta/models/m/:generateContent"),
        ("POST", "/v1beta/models/m/operations/o1:generateContent"),
        ("POST", "/v1beta/models//m:generateContent"),
    ):
        assert TABLE.match(method, path) is None
    azure = TABLE.match("POST", "/azure/openai/deployments/a/b/chat/completions")
    assert azure is not None
    assert azure.op is Op.FORBIDDEN


def test_a_shared_path_belongs_to_the_family_that_is_spoken() -> None:
    for path in ("/v1/models", "/v1/files/f1"):
        families = [TABLE.match("GET", path, spoken) for spoken in (None, "openai", "anthropic", "gemini")]
        assert [route and route.family for route in families] == ["openai", "openai", "anthropic", "gemini"]
    route = TABLE.match("POST", "/v1/chat/completions", "anthropic")
    assert route is not None
    assert route.family == "openai"


def test_what_shows_the_spoken_family() -> None:
    assert spoken_family({"anthropic-version": "2023-06-01", "x-api-key": "k"}) == "anthropic"
    assert spoken_family({"x-goog-api-client": "google-genai-sdk/3.6"}) == "gemini"
    assert spoken_family({"authorization": "Bearer k"}) is None


@pytest.mark.parametrize(
    ("path", "upstream", "endpoint", "inner"),
    [
        ("/openai/v1/chat/completions", "openai", "/v1/chat/completions", "/v1/chat/completions"),
        ("/openai/chat/completions", "openai", "/v1/chat/completions", "/v1/chat/completions"),
        ("/groq/openai/v1/chat/completions", "groq", "/v1/chat/completions", "/v1/chat/completions"),
        (
            "/azure/openai/deployments/d1/chat/completions",
            "azure",
            "/openai/deployments/{model}/chat/completions",
            "/openai/deployments/d1/chat/completions",
        ),
        ("/openai/v1/messages", "openai", "/v1/messages", "/v1/messages"),
        (
            "/vertex/v1beta1/projects/p/locations/l/publishers/google/models/m1:generateContent",
            "vertex",
            "/v1/projects/*/locations/*/publishers/google/models/{model}:generateContent",
            "/v1beta1/projects/p/locations/l/publishers/google/models/m1:generateContent",
        ),
    ],
)
def test_metered_operations_under_a_provider(path: str, upstream: str, endpoint: str, inner: str) -> None:
    route = TABLE.match("POST", path)
    assert route is not None
    assert (route.op, route.upstream, route.endpoint, route.path) == (Op.GENERATE, upstream, endpoint, inner)


def test_an_unlisted_post_of_a_provider_passes_and_nothing_else_does() -> None:
    route = TABLE.match("POST", "/groq/v1/rerank/by/id")
    assert route is not None
    assert (route.op, route.endpoint, route.upstream) == (Op.PASSTHROUGH, "/v1/rerank/*", "groq")
    for method in ("GET", "PUT", "PATCH", "DELETE"):
        route = TABLE.match(method, "/groq/v1/rerank")
        assert route is not None
        assert route.op is Op.FORBIDDEN
    assert TABLE.match("POST", "/v1/rerank") is None


@pytest.mark.parametrize(
    "path",
    [
        "/openai/v1/chat/completions/",
        "/openai/V1/Chat/Completions",
        "/openai/v1/engines/davinci/completions",
        "/openai/v2/responses",
        "/openai/v1/chat%2Dx",
        "/anthropic/v2/messages",
        "/gemini/v1main/models/m:generateContent",
        "/gemini/v1beta/models/m:generatecontent",
        "/gemini/v1beta/models/m%3AgenerateContent",
        "/vertex/v1/projects/p/locations/l/publishers/x/models/m:streamGenerateContent",
    ],
)
def test_a_metered_operation_in_disguise_is_no_pass_through(path: str) -> None:
    route = TABLE.match("POST", path)
    assert route is not None
    assert route.op is Op.FORBIDDEN


@pytest.mark.parametrize("path", ["", "/", "/v1", "/v1/", "/openai", "//v1/files/x", "/v1/files/", "/nobody/v1/x", "*"])
def test_paths_that_are_nothing(path: str) -> None:
    assert TABLE.match("GET", path) is None


@pytest.mark.parametrize("name", ["v1", "admin", "upload"])
def test_a_provider_may_not_take_a_path_of_ours(name: str) -> None:
    with pytest.raises(ConfigError, match="choose another name"):
        RouteTable({name: "openai"})


def test_a_provider_of_no_known_family_is_a_configuration_error() -> None:
    with pytest.raises(ConfigError, match="write one of openai, anthropic, gemini"):
        RouteTable({"x": "cohere"})
