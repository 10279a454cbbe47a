"""Media that have a rate of their own: what a request may hold of them, and what a Gemini reply reports."""

from __future__ import annotations

import json
from typing import Any

import pytest

from llmguard.core.call import Call, Request
from llmguard.core.usage import Usage
from llmguard.providers.gemini_embed import GeminiEmbed
from llmguard.providers.gemini_generate import GeminiGenerate
from llmguard.providers.gemini_reply import usage_of


def _call(dialect: Any, operation: str, doc: dict[str, Any]) -> Call:
    path = f"/v1beta/models/{{model}}:{operation}"
    call = dialect.parse(Request("POST", path, "", {}, json.dumps(doc).encode()), path, "gemini-embedding-2")
    assert isinstance(call, Call)
    return call


def embed(*parts: dict[str, Any]) -> Call:
    return _call(GeminiEmbed(), "embedContent", {"content": {"parts": list(parts)}})


def generate(*parts: dict[str, Any]) -> Call:
    return _call(GeminiGenerate(), "generateContent", {"contents": [{"parts": list(parts)}]})


def inline(mime: str) -> dict[str, Any]:
    return {"inlineData": {"mimeType": mime, "data": "AAAA"}}


def test_an_embedding_of_anything_but_text_is_held_at_the_dearest_rate_of_media() -> None:
    assert not embed({"text": "a"}).audio
    for part in (inline("image/png"), inline("video/mp4"), inline("audio/wav"), {"fileData": {"fileUri": "gs://a"}}):
        assert embed({"text": "a"}, part).audio


@pytest.mark.parametrize(
    ("file", "audio"),
    [
        ({"fileUri": "f", "mimeType": "audio/mpeg"}, True),
        ({"file_uri": "f", "mime_type": "VIDEO/mp4"}, True),
        ({"fileUri": "https://youtu.be/x"}, True),  # a film, without a type
        ({"fileUri": "f", "mimeType": 3}, True),
        ({"fileUri": "f", "mimeType": "application/pdf"}, False),
        ({"fileUri": "f", "mimeType": "image/png"}, False),
        (None, False),
    ],
)
def test_a_file_at_google_may_be_audio(file: Any, audio: bool) -> None:
    assert generate({"fileData": file}).audio is audio
    assert not generate(inline("image/png")).audio


def test_tokens_by_modality() -> None:
    def part(modality: object, tokens: object) -> dict[str, object]:
        return {"modality": modality, "tokenCount": tokens}

    details = [part("TEXT", 4), part("IMAGE", 258), part("DOCUMENT", 10), part("VIDEO", 500), part(4, 32), part([], 1)]
    wanted = Usage(804, 0, input_audio_tokens=32, input_image_tokens=268, input_video_tokens=500)
    assert usage_of({"promptTokenCount": 804, "promptTokensDetails": details}) == wanted
    assert usage_of({"promptTokenCount": 804, "promptTokenDetails": details}) == wanted  # as embeddings spell it
    assert usage_of({"promptTokenCount": 4, "promptTokensDetails": [part("IMAGE", "9"), 3]}) == Usage(4, 0)
