"""A call, a stream, their rows, and the report: the whole way, as a newcomer would go it."""

from __future__ import annotations

import json
from pathlib import Path

import httpx2

from tests.support.gateway import gateway

CONFIG = {"providers": {"sandbox": {"dialect": "sandbox"}}}
BODY = {"model": "sandbox/echo", "messages": [{"role": "user", "content": "Hello"}]}


def test_a_call_and_a_stream_are_answered_recorded_and_reported(tmp_path: Path) -> None:
    with gateway(tmp_path, CONFIG) as served:
        headers = {"authorization": f"Bearer {served.key()}"}
        url = f"{served.url}/v1/chat/completions"
        whole = httpx2.post(url, json=BODY, headers=headers)
        stream = httpx2.post(url, json=BODY | {"stream": True}, headers=headers)
        assert whole.status_code == stream.status_code == 200
        usage = whole.json()["usage"]
        assert stream.text.endswith("data: [DONE]\n\n")
        assert '"usage":{' not in stream.text
        rows = served.wait_for_rows(2)
        assert [row["event_id"] for row in rows] == [r.headers["x-llmguard-request-id"] for r in (whole, stream)]
        for row in rows:
            assert (row["team"], row["env"], row["feature"]) == ("search", "prod", "chat")
            assert (row["input_tokens"], row["output_tokens"]) == (usage["prompt_tokens"], usage["completion_tokens"])
            assert row["cost_nano"] == usage["total_tokens"] * 1_000
            assert (row["usage_source"], row["kind"], row["status"]) == ("provider", "POST", 200)
        assert whole.headers["x-llmguard-cost-usd"] == "0.000006"
        report = json.loads(served.run("report", "--by", "team,env,feature", "--json").stdout)
        (line,) = report["rows"]
        assert (line["team"], line["calls"], line["cost_usd"]) == ("search", 2, "0.000012")
        assert served.stop() == 0
