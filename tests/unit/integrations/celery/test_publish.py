"""Every message carries whom it works for, signed for this message and no other."""

from __future__ import annotations

import threading
from typing import Any

import pytest
from celery import Celery, chain, chord, group
from celery.app.task import Context

import llmguard
from llmguard.core.call import Caller
from llmguard.core.signed import HEADER, Signed, Signer
from llmguard.core.signed import task as bound_to
from llmguard.guard import Guard
from llmguard.runtime.context import current
from llmguard.runtime.ids import now_ms
from tests.support.celery_mail import SECRETS, Mail


@pytest.fixture
def signer(guard: Guard) -> Signer:
    return Signer(guard.secrets().signing)


def said(signer: Signer, message: Any) -> Signed:
    """What a message's header says."""
    signed = signer.read(message.headers[HEADER], bound_to(message.headers["id"]), now_ms())
    assert isinstance(signed, Signed), signed
    return signed


def test_a_message_of_nobody_has_no_header(app: Celery, mail: Mail) -> None:
    @app.task
    def idle() -> None: ...

    idle.delay()
    (message,) = mail.take()
    assert HEADER not in message.headers


def test_the_context_of_a_view_travels(app: Celery, mail: Mail, signer: Signer) -> None:
    @app.task
    def idle() -> None: ...

    with llmguard.context(team="web", env="prod", feature="search", end_user="u1"):
        idle.delay()
    (message,) = mail.take()
    task_id = message.headers["id"]
    assert said(signer, message) == Signed(
        team="web", env="prod", feature="search", end_user="u1", tree_id=task_id, task_id=task_id, depth=0
    )


def test_send_task_travels_too(app: Celery, mail: Mail, signer: Signer) -> None:
    with llmguard.context(team="web"):
        app.send_task("somewhere.else", queue=app.conf.task_default_queue)
    (message,) = mail.take()
    assert said(signer, message).team == "web"


def test_a_child_is_one_deeper_and_in_the_tree(app: Celery, mail: Mail, signer: Signer) -> None:
    @app.task
    def child() -> None: ...

    @app.task
    def parent() -> None:
        child.delay()

    with llmguard.context(team="web"):
        root = parent.delay()
    mail.run(mail.take()[0])
    (message,) = mail.take()
    signed = said(signer, message)
    assert (signed.team, signed.tree_id, signed.depth) == ("web", root.id, 1)
    assert signed.task_id == message.headers["id"] != root.id


def test_a_context_in_a_body_names_its_children(app: Celery, mail: Mail, signer: Signer) -> None:
    @app.task
    def child() -> None: ...

    @app.task
    def parent() -> None:
        with llmguard.context(feature="rerank"):
            child.delay()
        child.delay()

    with llmguard.context(team="web", feature="search"):
        root = parent.delay()
    mail.run(mail.take()[0])
    first, second = (said(signer, message) for message in mail.take())
    assert [(s.team, s.feature, s.tree_id, s.depth) for s in (first, second)] == [
        ("web", "rerank", root.id, 1),
        ("web", "search", root.id, 1),
    ]


def test_a_chain_of_26_steps_does_not_grow_deep(app: Celery, mail: Mail) -> None:
    depths: list[tuple[int, str | None, str | None]] = []

    @app.task
    def step() -> None:
        depths.append((current().depth, current().team, current().tree_id))

    @app.task
    def start() -> None:
        chain(*(step.si() for _ in range(26))).delay()

    with llmguard.context(team="web"):
        root = start.delay()
    assert mail.run_all() == 27
    assert depths == [(1, "web", root.id)] * 26


def test_links_and_errbacks_inherit(app: Celery, mail: Mail) -> None:
    seen: list[tuple[str, int, str | None]] = []

    def note(name: str) -> None:
        seen.append((name, current().depth, current().team))

    @app.task
    def after(_: Any) -> None:
        note("after")

    @app.task
    def published_errback(_: str, *, quiet: bool = False) -> None:
        note("published")

    @app.task
    def called_errback(_request: Any, _error: Any, _trace: Any) -> None:
        note("called")

    @app.task
    def good() -> None: ...

    @app.task
    def bad() -> None:
        raise ValueError("bad")

    errbacks = [published_errback.s(), called_errback.s()]
    with llmguard.context(team="web"):
        good.apply_async(link=after.s())
        bad.apply_async(link_error=errbacks)
    mail.run_all()
    assert sorted(seen) == [("after", 0, "web"), ("called", 0, "web"), ("published", 0, "web")]
    assert all(HEADER not in (errback.options.get("headers") or {}) for errback in errbacks)


def test_the_body_of_a_chord_and_its_errback(app: Celery, mail: Mail, signer: Signer) -> None:
    @app.task
    def part() -> None: ...

    @app.task
    def body(_: Any) -> None: ...

    @app.task
    def errback(_: str) -> None: ...

    with llmguard.context(team="web"):
        chord([part.s(), part.s()], body.s().on_error(errback.s())).delay()
    for message in mail.take():
        assert said(signer, message).team == "web"
        chord_body = message.payload[2]["chord"] or message.payload[1]["callback"]
        (carried,) = chord_body["options"]["link_error"]
        if message.headers["task"] != "celery.chord_unlock":
            text = carried["options"]["headers"][HEADER]
            signed = signer.read(text, bound_to(chord_body["options"]["task_id"]), now_ms())
            assert isinstance(signed, Signed)
            assert signed.team == "web"


def test_the_main_process_publishes_an_errback(app: Celery, mail: Mail, signer: Signer) -> None:
    """After a hard time limit nothing is on the stack; the copy that the errback carries speaks. Errbacks that take the
    request are called right there."""
    seen: list[Caller] = []

    @app.task
    def errback(_: str) -> None: ...

    @app.task
    def called(_error: Any, _trace: Any, *_: Any) -> None:
        seen.append(current())

    @app.task
    def slow() -> None: ...

    with llmguard.context(team="web", feature="f"):
        root = slow.apply_async(link_error=[errback.s(), called.si(1, 2), called.s()])
    (message,) = mail.take()
    args, kwargs, embedded = message.payload
    context = Context({**message.headers, "delivery_info": {}, "args": args, "kwargs": kwargs, **embedded})
    app.backend.mark_as_failure(root.id, ValueError("time limit"), request=context)
    (published,) = mail.take()
    signed = said(signer, published)
    assert (signed.team, signed.feature, signed.tree_id, signed.depth) == ("web", "f", root.id, 0)
    assert signed.task_id == published.headers["id"] != root.id
    assert [(c.team, c.feature, c.tree_id, c.depth, c.task_id) for c in seen] == [("web", "f", root.id, 0, root.id)] * 2


def test_a_retry_keeps_its_depth_and_replace_grows(app: Celery, mail: Mail) -> None:
    seen: list[tuple[int, int, int]] = []

    @app.task(bind=True, max_retries=2)
    def again(self: Any) -> None:
        seen.append((self.request.retries, self.request.replaced_task_nesting, current().depth))
        if self.request.retries < 2:
            raise self.retry(countdown=0)
        if self.request.replaced_task_nesting < 2:
            raise self.replace(again.s())

    with llmguard.context(team="web"):
        again.delay()
    mail.run_all()
    assert seen == [(retries, nesting, nesting) for nesting in range(3) for retries in range(3)]


def test_nobody_escapes_depth_by_handing_on_the_headers(app: Celery, mail: Mail) -> None:
    depths: list[int] = []

    @app.task(bind=True)
    def again(self: Any) -> None:
        depths.append(current().depth)
        if len(depths) < 5:
            self.apply_async(headers=self.request.headers)

    with llmguard.context(team="web"):
        again.delay()
    mail.run_all()
    assert depths == [0, 1, 2, 3, 4]


def test_a_thread_of_a_body_stays_in_its_tree(app: Celery, mail: Mail) -> None:
    seen: list[tuple[int, str | None]] = []

    @app.task
    def hop() -> None:
        seen.append((current().depth, current().tree_id))
        if len(seen) < 4:
            thread = threading.Thread(target=hop.delay)
            thread.start()
            thread.join()

    root = hop.delay()
    mail.run_all()
    assert seen == [(depth, root.id) for depth in range(4)]


def test_a_group_from_a_body(app: Celery, mail: Mail, signer: Signer) -> None:
    @app.task
    def leaf(_: int) -> None: ...

    @app.task
    def fan() -> None:
        group(leaf.s(i) for i in range(3)).delay()

    root = fan.delay()
    mail.run(mail.take()[0])
    assert [(said(signer, m).tree_id, said(signer, m).depth) for m in mail.take()] == [(root.id, 1)] * 3


def test_an_explicit_header_stands(app: Celery, mail: Mail, signer: Signer) -> None:
    @app.task
    def idle() -> None: ...

    signed = Signed(team="billing", feature="invoices", tree_id="elsewhere", task_id="id-1", depth=3)
    with llmguard.context(team="web"):
        idle.apply_async(task_id="id-1", headers={HEADER: signer.sign(signed, bound_to("id-1"), now_ms())})
    (message,) = mail.take()
    assert said(signer, message) == signed


@pytest.mark.parametrize("given", ["1.x.y", "", {"team": "billing"}, 7])
def test_a_header_that_is_none_is_taken_off(app: Celery, mail: Mail, given: Any) -> None:
    @app.task
    def idle() -> None: ...

    idle.apply_async(headers={HEADER: given})
    (message,) = mail.take()
    assert HEADER not in message.headers


def test_the_headers_that_a_tracer_keeps_are_signed_too(app: Celery, mail: Mail, signer: Signer) -> None:
    @app.task
    def idle() -> None: ...

    with llmguard.context(team="web"):
        idle.apply_async(headers={"headers": {"sentry-trace": "1"}})
    (message,) = mail.take()
    assert message.headers["headers"] == {"sentry-trace": "1", HEADER: message.headers[HEADER]}


def test_protocol_1(app: Celery, mail: Mail, signer: Signer) -> None:
    app.conf.task_protocol = 1

    @app.task
    def idle() -> None: ...

    with llmguard.context(team="web"):
        result = idle.delay()
    (message,) = mail.take()
    signed = signer.read(message.headers[HEADER], bound_to(result.id), now_ms())
    assert isinstance(signed, Signed)
    assert signed.team == "web"


def test_secrets_are_not_in_the_message(app: Celery, mail: Mail) -> None:
    @app.task
    def idle() -> None: ...

    with llmguard.context(team="web"):
        idle.delay()
    (message,) = mail.take()
    assert SECRETS["signing"][0] not in repr(message.headers)
