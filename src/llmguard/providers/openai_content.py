"""What a prompt holds beside text: images, audio, files, and objects that lie at the provider.

Worst-case figures, because a cap must hold before the provider has looked:

- An image is at most 10,000 tokens: the patch budget of ``detail: original`` (OpenAI, "Images and vision"; the other
  details end at 1,536 patches × 2.46). Others charge less: Claude 4,784, Llama at Together 6,404, Gemini 2,240.
  ``detail: low`` is a picture of 512 pixels: 85 tokens, or 256 patches × 2.46. The exception is gpt-4o-mini, which
  counts 2,833 + 5,667 for each of at most 8 tiles.
- A second of audio is at most 32 tokens (Gemini; OpenAI 10, Mistral 12.5), and at the lowest bit rate in use (Opus,
  6 kbit/s) 750 bytes, 1,000 characters in base64: one token for 30 characters, rounded up.
- A file, a video or a part of unknown type can hold anything; it counts as the model's context window.
- Providers add words of their own: with tools or a schema up to 310 tokens more than the request has bytes (Claude and
  Llama 4 behind OpenAI's format, measured on the recorded traffic), Grok 80 always. Systems that work in several turns
  on their own (Groq's compound models) read what nobody sent them.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from llmguard.core.call import ObjectRef
from llmguard.providers.base import take_str, wrong

IMAGE_TOKENS = 10_000
LOW_DETAIL_TOKENS = 640
MINI_IMAGE_TOKENS = 2_833 + 8 * 5_667
MINI_LOW_DETAIL_TOKENS = 2_833
BASE64_PER_AUDIO_TOKEN = 30
TOOL_TOKENS = 512
GROK_TOKENS = 256

_TEXT = frozenset(
    ("text", "input_text", "output_text", "refusal", "thinking", "reasoning_text", "summary_text", "encrypted_content")
)
_IMAGE = frozenset(("image_url", "input_image", "computer_screenshot"))


class Content:
    """Adds up what the parts of one prompt cost beyond their text.

    ``inline`` is the length of base64 payloads in the body, ``tokens`` their worst case, ``audio`` whether there is
    any, ``reads`` the objects named; ``unseen`` says that something adds input whose size nobody here can know.
    ``searches_web`` and ``searches_files`` say that a tool of the provider may do so.
    """

    audio = False
    inline = 0
    searches_files = False
    searches_web = False
    reads: tuple[ObjectRef, ...] = ()
    tokens = 0
    unseen = False

    def __init__(self, model: str) -> None:
        self._mini = "gpt-4o-mini" in model
        if "grok" in model:
            self.tokens = GROK_TOKENS
        elif "compound" in model:
            self.unseen = True

    def parts(self, parts: Iterable[Any], where: str) -> None:
        """Take the parts of one message or tool result. ``where`` names their field in errors."""
        for part in parts:
            if type(part) is dict:
                kind = part.get("type")
                if type(kind) is not str:
                    self._untyped(kind, part, where)
                elif kind not in _TEXT:
                    self._part(kind, part, where)
            elif type(part) is not str:
                raise wrong(where, part, "an array of content parts")

    def _untyped(self, kind: Any, part: dict[str, Any], where: str) -> None:
        """Some callers leave the type of a text out."""
        if kind is not None or "text" not in part:
            self._opaque(part, where)

    def _part(self, kind: str, part: dict[str, Any], where: str) -> None:
        if kind in _IMAGE:
            self._image(part, where)
        elif kind == "input_audio":
            self._audio(part, where)
        else:
            self._opaque(part, where)

    def _image(self, part: dict[str, Any], where: str) -> None:
        value = part.get("image_url")
        holder = value if type(value) is dict else part
        url = take_str(holder, "url" if holder is value else "image_url", param=where) or ""
        self.image(url, low=holder.get("detail") == "low")
        self.named("file", take_str(part, "file_id", param=where))

    def image(self, url: str, *, low: bool = False) -> None:
        """Take one image: a link, or a ``data:`` URL whose payload lies in the body."""
        if url.startswith("data:"):
            self.inline += len(url)
        if self._mini:
            self.tokens += MINI_LOW_DETAIL_TOKENS if low else MINI_IMAGE_TOKENS
        else:
            self.tokens += LOW_DETAIL_TOKENS if low else IMAGE_TOKENS

    def _audio(self, part: dict[str, Any], where: str) -> None:
        inner = part.get("input_audio")
        holder, name = (inner, "data") if type(inner) is dict else (part, "input_audio")
        data = take_str(holder, name, param=where) or ""
        self.audio = True
        self.inline += len(data)
        self.tokens += len(data) // BASE64_PER_AUDIO_TOKEN + 1

    def _opaque(self, part: dict[str, Any], where: str) -> None:
        """A file, or a part this dialect does not know."""
        self.unseen = True
        inner = part.get("file")
        for holder in (part, inner) if type(inner) is dict else (part,):
            self.named("file", take_str(holder, "file_id", param=where))
            self.inline += len(take_str(holder, "file_data", param=where) or "")

    def named(self, kind: str, name: str | None) -> None:
        """Note an object at the provider that the body names."""
        if name:
            self.reads += (ObjectRef(kind, name),)


def part_texts(content: Any) -> list[str]:
    """The text of a message's content: a string, or the text parts of a list."""
    if type(content) is str:
        return [content]
    if type(content) is not list:
        return []
    texts = (part.get("text") if type(part) is dict else part for part in content)
    return [text for text in texts if type(text) is str]
