"""What a message says of the runs before it is only believed where it was signed for this very task."""

from __future__ import annotations

from typing import Any

import pytest
from celery.app.task import Context

from llmguard.core.signed import Signer
from llmguard.integrations.celery.marks import HEADER, NONE, Marks, carried, read, write

SIGNER = Signer([b"k" * 32])
MARKS = Marks(aftermath=True, max_retries=7, paid=True, copy=2)


def request(task_id: str, text: object) -> Context:
    return Context({"id": task_id, HEADER: text})


def written(task_id: str, marks: Marks, signer: Signer = SIGNER) -> Any:
    headers: dict[str, Any] = {}
    write(headers, task_id, marks, signer)
    return headers[HEADER]


def test_marks_are_read_as_they_were_written() -> None:
    message = request("t-1", written("t-1", MARKS))
    assert carried(message)
    assert read(message, SIGNER) == MARKS


@pytest.mark.parametrize(
    "text",
    [
        pytest.param(1, id="not signed"),
        pytest.param('{"max_retries": 1000}', id="in plain text"),
        pytest.param(written("t-2", MARKS), id="of another task"),
        pytest.param(written("t-1", MARKS, Signer([b"x" * 32])), id="of another key"),
    ],
)
def test_what_was_not_signed_for_this_task_says_nothing(text: object) -> None:
    assert read(request("t-1", text), SIGNER) == NONE


def test_a_message_with_nothing_to_say_loses_the_header_it_came_with() -> None:
    headers = {HEADER: "of the run before", "x-other": "stays"}
    write(headers, "t-1", NONE, SIGNER)
    assert headers == {"x-other": "stays"}
    assert not carried(Context({"id": "t-1"}))
