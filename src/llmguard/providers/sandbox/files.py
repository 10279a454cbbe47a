"""Uploaded files, in OpenAI's and Anthropic's shapes, and what else is kept: list, read, delete."""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from llmguard.providers.sandbox.answer import Answer, Ask, error, whole
from llmguard.providers.sandbox.shelf import Item

PLAIN = "application/octet-stream"
_BOUNDARY = re.compile(r'boundary="?([^";,]{1,70})"?')
_PARAMETER = re.compile(r'\b(name|filename)="([^"]*)"')


def upload(ask: Ask, family: str) -> Answer:
    """`POST /v1/files`: a multipart form with a `file`, and for OpenAI a `purpose`."""
    form = _read_form(ask.headers.get("content-type", ""), ask.body)
    if "file" not in form:
        return error(family, 400, "A multipart form with a file is needed.", ask.new_id("req_"))
    filename, mime_type, content = form["file"]
    if family == "anthropic":
        document: dict[str, Any] = {
            "id": ask.new_id("file_"),
            "type": "file",
            "filename": filename,
            "mime_type": mime_type,
            "size_bytes": len(content),
            "created_at": datetime.fromtimestamp(ask.now, UTC).isoformat(),
            "downloadable": True,
        }
    else:
        document = {
            "id": ask.new_id("file-"),
            "object": "file",
            "bytes": len(content),
            "created_at": ask.now,
            "filename": filename,
            "purpose": form.get("purpose", ("", PLAIN, b"user_data"))[2].decode("utf-8", "replace"),
            "status": "processed",
        }
    ask.shelf.put("file", document["id"], Item(document, content=content))
    return whole(document)


def listing(ask: Ask, family: str) -> Answer:
    """`GET /v1/files`: the newest first, all on one page; each family sees its own."""
    mark = "type" if family == "anthropic" else "object"
    found = [document for document in ask.shelf.every("file") if mark in document]
    ends = {"first_id": found[0]["id"] if found else None, "last_id": found[-1]["id"] if found else None}
    page: dict[str, Any] = {"data": found, "has_more": False, **ends}
    return whole(page if family == "anthropic" else {"object": "list", **page})


def kept(ask: Ask, family: str, kind: str, name: str, rest: str) -> Answer:
    """`GET` or `DELETE` of one kept object, or `GET` of a file's content."""
    item = ask.shelf.get(kind, name)
    if item is None or rest not in ("", "content") or (rest and kind != "file"):
        return error(family, 404, f"No {kind} with this id.", ask.new_id("req_"))
    if ask.method == "DELETE":
        ask.shelf.remove(kind, name)
        gone = {"type": f"{kind}_deleted"} if family == "anthropic" else {"object": kind, "deleted": True}
        return whole({"id": name, **gone})
    if rest:
        mime_type = str(item.document.get("mime_type", PLAIN))
        return Answer(200, [(b"content-type", mime_type.encode("latin-1", "replace"))], [item.content])
    return whole(item.document)


def _read_form(content_type: str, body: bytes) -> Mapping[str, tuple[str, str, bytes]]:
    """Fields of a multipart form by name: file name, media type, content."""
    boundary = _BOUNDARY.search(content_type)
    if boundary is None:
        return {}
    fields: dict[str, tuple[str, str, bytes]] = {}
    for part in body.split(b"--" + boundary[1].encode())[1:-1]:
        head, _, content = part[2:].partition(b"\r\n\r\n")
        lines = head.decode("utf-8", "replace").split("\r\n")
        headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
        named = dict(_PARAMETER.findall(headers.get("content-disposition", "")))
        media = headers.get("content-type", PLAIN)
        fields[named.get("name", "")] = (named.get("filename", ""), media, content.removesuffix(b"\r\n"))
    return fields
