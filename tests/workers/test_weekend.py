"""A weekend, compressed: fifty jobs loop at $5.40 a call, and the team's $100 an hour is all there is against them."""

from __future__ import annotations

import math
import time
from collections import Counter
from decimal import Decimal
from pathlib import Path

from llmguard.config.secrets import fresh
from llmguard.sinks.webhook import SIGNATURE, alert_key, signature
from tests.support.celery_rig import rig
from tests.support.celery_upstream import Behaviour
from tests.support.receiver import receiver

JOBS = 50
CALL_USD = Decimal("5.40")
HOUR_S = 3_600
LASTS_S = 120.0
ALERT_S = 10.0


def test_fifty_looping_jobs_spend_the_hours_budget_and_end(tmp_path: Path) -> None:
    signing = fresh()
    with receiver() as hook:
        config = {
            "secrets": {"pepper": fresh(), "signing": [signing], "cache": [fresh()]},
            "prices": {"openai/weekend": {"input": "$1000/M", "output": "$0/M"}},
            "budgets": [{"name": "hour", "scope": {"team": "weekend"}, "limit": "$100", "window": "hour"}],
            "alerts": [{"url": hook.url, "internal": True}],
        }
        with rig(tmp_path, "tests.workers.tasks_weekend", config=config, ceiling=10_000) as made:
            worker = made.worker("prefork", guarded=True)
            worker.wait_ready()
            _stay_within_the_hour()
            tags = [f"job-{number}" for number in range(JOBS)]
            for tag in tags:
                made.provider.behave(tag, Behaviour(delay=0.05, prompt=5_400, completion=10))
            ids = [worker.send("loop", tag) for tag in tags]
            assert worker.wait_done(*tags, timeout=LASTS_S), worker.tail()
            paid = CALL_USD * sum(made.provider.paid(tag) for tag in tags)
            assert 90 <= paid <= 110
            assert Counter(worker.state(task_id) for task_id in ids) == {"FAILURE": JOBS}
            assert Counter(made.notes(tag)["errback"] for tag in tags) == {1: JOBS}
            assert made.silent(2.0) == {}
            (total,) = made.llmguard("report", "--by", "team", "--since", "1d")["rows"]
            assert (total["team"], Decimal(total["cost_usd"])) == ("weekend", paid)
            bills = sorted(bill.at for tag in tags for bill in made.provider.bills(tag))
            (alert,) = hook.wait(lambda got: len(got) >= 1, 10.0)
            assert worker.serves()
    crossed = bills[math.ceil(80 / CALL_USD) - 1] + time.time() - time.monotonic()
    sent = int(alert.headers[SIGNATURE].partition(",")[0].removeprefix("t="))
    assert sent - crossed < ALERT_S
    assert alert.headers[SIGNATURE] == signature([alert_key(signing.encode())], sent, alert.body)
    data = alert.alert["data"]
    assert (alert.alert["type"], data["rule"], data["threshold"], data["limit"]) == ("budget", "hour", "80", "100")


def _stay_within_the_hour() -> None:
    """A new hour is a new budget."""
    left = HOUR_S - time.time() % HOUR_S
    if left < LASTS_S:
        time.sleep(left)
