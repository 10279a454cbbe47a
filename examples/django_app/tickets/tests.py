"""What the pages do: with a provider that answers from memory, and the real guard on the test database."""

import json
from unittest import mock

import httpx2
import openai
from django.conf import settings
from django.db import connection
from django.test import TestCase

from llmguard import get_guard
from tickets.models import Ticket

REPLY = {
    "id": "c",
    "object": "chat.completion",
    "created": 1,
    "model": "gpt-4o-mini",
    "choices": [{"index": 0, "message": {"role": "assistant", "content": "Send it."}, "finish_reason": "stop"}],
    "usage": {"prompt_tokens": 1_000_000, "completion_tokens": 10, "total_tokens": 1_000_010},
}


def stream(*words):
    """The same as a stream."""
    chunk = {"id": "c", "object": "chat.completion.chunk", "created": 1, "model": "gpt-4o-mini"}
    events = [chunk | {"choices": [{"index": 0, "delta": {"content": word}}]} for word in words]
    events.append(chunk | {"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]})
    events.append(chunk | {"choices": [], "usage": REPLY["usage"]})
    return "".join(f"data: {json.dumps(event)}\n\n" for event in events) + "data: [DONE]\n\n"


def provider(request):
    """Answers every call."""
    if json.loads(request.content).get("stream"):
        return httpx2.Response(200, text=stream("Dear ", "customer"), headers={"content-type": "text/event-stream"})
    return httpx2.Response(200, json=REPLY)


class PagesCase(TestCase):
    """The demo agent, logged in, and a provider that answers from memory."""

    fixtures = ("demo",)

    def setUp(self):
        self.client.login(username="demo", password="demo")
        sdk = openai.OpenAI(api_key="none", http_client=httpx2.Client(transport=httpx2.MockTransport(provider)))
        patch = mock.patch("openai.OpenAI", return_value=sdk)
        patch.start()
        self.addCleanup(patch.stop)

    def spent(self):
        """What the team has spent today, in nano-USD."""
        (daily,) = [each for each in get_guard().remaining(team="support") if each.rule == "team-daily"]
        return daily.spent


class Summaries(PagesCase):
    def test_a_summary_is_saved_and_paid_by_the_team(self):
        before = self.spent()
        self.assertRedirects(self.client.post("/tickets/1/summary"), "/")
        self.assertEqual(Ticket.objects.get(pk=1).summary, "Send it.")
        self.assertGreater(self.spent(), before)
        self.assertContains(self.client.get("/budget"), "team-daily")

    def test_an_agent_without_money_is_told_so(self):
        for _ in range(10):
            reply = self.client.post("/tickets/2/summary")
            if reply.status_code != 302:
                break
        self.assertEqual((reply.status_code, reply["content-type"]), (429, "application/problem+json"))
        self.assertEqual(Ticket.objects.get(pk=2).summary, "Send it.")


class Drafts(PagesCase):
    def test_a_draft_is_streamed(self):
        before = self.spent()
        reply = self.client.get("/tickets/1/draft")
        self.assertEqual(b"".join(reply.streaming_content), b"Dear customer")
        self.assertGreater(self.spent(), before)

    def test_tests_leave_the_project_s_ledger_alone(self):
        ledger = get_guard().config.ledger
        self.assertNotEqual(ledger, settings.LLMGUARD["LEDGER"])
        if connection.vendor == "postgresql":
            self.assertIn(connection.settings_dict["NAME"], ledger)

    def test_nobody_sees_the_tickets_of_others(self):
        self.client.logout()
        self.assertRedirects(self.client.get("/"), "/login?next=/")
