"""What tests say of costs is what the ledger says, and what a test hears when it is wrong is one sentence."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator

import openai
import pytest

from llmguard.guard import Guard, get_guard
from llmguard.integrations.httpx import async_http_client, http_client
from llmguard.runtime.context import context
from llmguard.testing import FakeProvider, cost_at_most, freeze_budgets, spend

pytestmark = pytest.mark.llmguard(
    {
        "prices": {"openai/*": {"input": "$1/M", "output": "$2/M"}},
        "budgets": [
            {"name": "search-day", "scope": {"team": "search"}, "limit": "$1", "window": "day"},
            {"name": "ads-day", "scope": {"team": "ads"}, "limit": "$1", "window": "day"},
        ],
    }
)


@pytest.fixture
def client(llmguard_guard: Guard, llmguard_provider: FakeProvider) -> Iterator[openai.OpenAI]:
    llmguard_provider.reply("fine", usage=(1_000, 500))
    guarded = http_client(team="search", env="test", feature="chat")
    with openai.OpenAI(http_client=guarded, max_retries=0) as client:
        yield client


def ask(client: openai.OpenAI, stream: bool = False) -> object:
    messages = [{"role": "user", "content": "hi"}]
    return client.chat.completions.create(model="m", messages=messages, stream=stream)  # type: ignore[call-overload]


def test_what_was_spent_is_what_the_ledger_says(client: openai.OpenAI) -> None:
    ask(client)
    with spend() as spent:
        ask(client)
        with context(team="ads", feature="titles"):
            ask(client)
            ask(client)
        assert spent.calls == 0
    assert (spent.calls, spent.cost_nano, spent.usd) == (3, 3 * 2_000_000, "0.006")
    assert (spent.of(team="ads").calls, spent.of(team="ads", feature="titles").usd) == (2, "0.004")
    assert spent.of(feature="chat").rows == (("search", "test", "chat", "openai", "m", 1, 2_000_000),)
    assert repr(spent) == "Spent(3 calls, $0.006)"
    with pytest.raises(ValueError, match="tenant: ask by team, env"):
        spent.of(tenant="ads")


def test_nothing_is_nothing(client: openai.OpenAI) -> None:
    with spend() as spent:
        pass
    assert (spent.calls, spent.usd, spent.in_words()) == (0, "0", "nothing")


def test_other_threads_count(client: openai.OpenAI) -> None:
    with spend() as spent:
        threads = [threading.Thread(target=ask, args=(client,)) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert spent.calls == 4


def test_cost_at_most_lets_pass_what_is_within(client: openai.OpenAI) -> None:
    with cost_at_most("$0.002", calls=1):
        ask(client)
    with cost_at_most("$0"):
        pass


def test_cost_at_most_says_what_was_too_dear(client: openai.OpenAI) -> None:
    said = r"^this cost \$0\.004, more than \$0\.003 \(search/chat openai/m: 2 calls, \$0\.004\)$"
    with pytest.raises(AssertionError, match=said), cost_at_most("$0.003"):
        _ = ask(client), ask(client)


@pytest.mark.parametrize(("calls", "said"), [(2, "this made 1 call, not 2"), (0, "this made 1 call, not 0")])
def test_cost_at_most_counts_calls(client: openai.OpenAI, calls: int, said: str) -> None:
    with pytest.raises(AssertionError, match=said), cost_at_most("$1", calls=calls):
        ask(client)


def test_a_retry_is_a_call(client: openai.OpenAI, llmguard_provider: FakeProvider) -> None:
    llmguard_provider.queue(status=500)
    with pytest.raises(AssertionError, match="this made 2 calls, not 1"), cost_at_most("$1", calls=1):
        ask(client.with_options(max_retries=1))


def test_an_error_inside_is_not_covered_up(client: openai.OpenAI) -> None:
    with pytest.raises(KeyError, match="mine"), cost_at_most("$0"):
        raise KeyError(ask(client) and "mine")


def test_as_a_decorator(client: openai.OpenAI) -> None:
    @cost_at_most("$0.002")
    def once(times: int) -> int:
        """Kept."""
        for _ in range(times):
            ask(client)
        return times

    assert (once(1), once.__doc__) == (1, "Kept.")
    assert once(1) == 1
    with pytest.raises(AssertionError, match=r"this cost \$0\.004"):
        once(2)


def test_coroutines(llmguard_guard: Guard, llmguard_provider: FakeProvider) -> None:
    llmguard_provider.reply(usage=(1_000, 500))

    async def call() -> None:
        async with openai.AsyncOpenAI(http_client=async_http_client(team="search")) as client:
            await client.chat.completions.create(model="m", messages=[{"role": "user", "content": "hi"}])

    @cost_at_most("$0.002", calls=1)
    async def times(number: int) -> int:
        for _ in range(number):
            await call()
        return number

    async def work() -> None:
        assert await times(1) == 1
        with pytest.raises(AssertionError, match="this cost"):
            await times(2)
        async with spend() as spent:
            await asyncio.gather(call(), call())
        assert spent.calls == 2

    asyncio.run(work())


def test_a_stream_left_open_is_said(client: openai.OpenAI, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("llmguard.testing.spending.WAIT_SECONDS", 0.1)
    opened = []
    with (
        pytest.raises(AssertionError, match=r"^1 call is still open: read each stream to its end, or close it$"),
        spend(),
    ):
        opened.append(ask(client, stream=True))
    with spend() as spent:
        opened[0].close()  # type: ignore[attr-defined]
    assert spent.calls == 1


def test_a_wrong_cost_is_refused() -> None:
    with pytest.raises(ValueError, match=r"\$"):
        cost_at_most("a cent")


# ---------------------------------------------------------------------- budgets


def standing(name: str) -> int:
    (found,) = [row for row in get_guard().remaining(team="search") if row.rule == name]
    return found.spent + found.held


def test_frozen_budgets_neither_count_nor_refuse(client: openai.OpenAI) -> None:
    ask(client)
    before = standing("search-day")
    with freeze_budgets(), spend() as spent:
        ask(client)
    assert (spent.calls, standing("search-day"), before) == (1, 2_000_000, 2_000_000)
    ask(client)
    assert standing("search-day") == 4_000_000


def test_an_exhausted_budget_refuses_every_call_of_its_scope(client: openai.OpenAI) -> None:
    with freeze_budgets(exhausted="search-day"), spend() as spent:
        with pytest.raises(openai.APIStatusError) as caught:
            ask(client)
        with context(team="ads"):
            ask(client)
    assert caught.value.response.json()["error"]["llmguard"]["rule"] == "search-day"
    assert [row.team for row in spent.rows] == ["ads"]


def test_budgets_hold_again_afterwards(client: openai.OpenAI) -> None:
    with freeze_budgets(exhausted=["search-day", "ads-day"]), pytest.raises(openai.APIStatusError):
        ask(client)
    with cost_at_most("$0.002", calls=1):
        ask(client)


def test_an_unknown_budget_is_said(llmguard_guard: Guard) -> None:
    said = "there is no budget none; there are ads-day, search-day, unattributed-feature, unattributed-team"
    with pytest.raises(ValueError, match=said), freeze_budgets(exhausted="none"):
        pass
