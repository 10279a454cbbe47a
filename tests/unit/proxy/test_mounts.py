"""The path below a mount point, however the host and the caller write it."""

from __future__ import annotations

from typing import Any

import pytest

from llmguard.proxy.mounts import decoded_below, path_below


def scope(path: str, raw: bytes | None = None, **more: Any) -> dict[str, Any]:
    return {"path": path, "raw_path": raw, **more}


@pytest.mark.parametrize(
    ("given", "below", "decoded"),
    [
        (scope("/v1/x", b"/v1/x"), b"/v1/x", "/v1/x"),
        (scope("/v1/a b", None), b"/v1/a%20b", "/v1/a b"),
        (scope("/llm/v1/x", b"/llm/v1/x", root_path="/llm"), b"/v1/x", "/v1/x"),
        (scope("/llm", b"/llm", root_path="/llm"), b"/", "/"),
        (scope("/llm/v1/x", b"/llm/v1%2Fx", root_path="/llm"), b"/v1%2Fx", "/v1/x"),
        (scope("/b é/v1/x", b"/b%20%C3%A9/v1/x", root_path="/b é"), b"/v1/x", "/v1/x"),
        (scope("/llm2/v1/x", b"/llm2/v1/x", root_path="/llm"), b"/llm2/v1/x", "/llm2/v1/x"),
        # A proxy in front has taken /api off, and FastAPI(root_path="/api") says so; below it a mount at /llm.
        (scope("/llm/v1", b"/llm/v1", root_path="/api/llm", app_root_path="/api"), b"/v1", "/v1"),
        (scope("/v1/x", b"/v1/x", root_path="/api", app_root_path="/api"), b"/v1/x", "/v1/x"),
        # Written in another way than plainly, so nobody's path: what is refused must not be taken for another one.
        (scope("/llm/v1/x", b"/%6clm/v1/x", root_path="/llm"), b"/%6clm/v1/x", "/v1/x"),
    ],
)
def test_what_is_below_the_mount_point(given: dict[str, Any], below: bytes, decoded: str) -> None:
    assert (path_below(given), decoded_below(given)) == (below, decoded)
