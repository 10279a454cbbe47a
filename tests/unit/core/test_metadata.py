"""Metadata that callers send along."""

from __future__ import annotations

import json

import pytest

from llmguard.core.metadata import BadMetadata, read_metadata


@pytest.mark.parametrize(
    ("headers", "found"),
    [
        ({}, {}),
        (
            {"x-llmguard-metadata": '{"job": "nightly", "run": 7, "dry": true}'},
            {"job": "nightly", "run": "7", "dry": "true"},
        ),
        ({"x-portkey-metadata": '{"_user": "u1"}'}, {"_user": "u1"}),
        ({"cf-aig-metadata": '{"team": "a"}', "x-litellm-tags": "b"}, {"team": "a"}),
        ({"x-litellm-tags": "batch,nightly"}, {"tags": "batch,nightly"}),
    ],
)
def test_what_is_kept(headers: dict[str, str], found: dict[str, str]) -> None:
    assert read_metadata(headers) == found


@pytest.mark.parametrize(
    "text",
    [
        "{",
        "[1]",
        '"a"',
        '{"a": {}}',
        '{"a": null}',
        json.dumps({str(i): 1 for i in range(33)}),
        '{"a": "%s"}' % ("x" * 2_048),
        "[" * 2_000,
    ],
)
def test_what_cannot_be_kept_is_said(text: str) -> None:
    with pytest.raises(BadMetadata, match="x-llmguard-metadata"):
        read_metadata({"x-llmguard-metadata": text})
