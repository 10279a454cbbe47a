"""Which buckets a call takes from."""

from __future__ import annotations

from llmguard.core.buckets import Planner, scope_text, values_of
from llmguard.core.call import Attribution
from llmguard.core.rules import BudgetRule, LimitRule

NOW = 1_764_000_000_000  # 2025-11-24T16:00:00Z


def values(**who: str) -> tuple[str, ...]:
    return values_of(Attribution(**who), "gpt-4o", "openai")


def budget(name: str, scope: dict[str, str], limit: int = 100, **more: object) -> BudgetRule:
    return BudgetRule(name, scope, limit, "usd", "hour", **more)  # type: ignore[arg-type]


def test_a_star_makes_one_bucket_per_value_and_a_value_matches_only_itself() -> None:
    planner = Planner([budget("each", {"team": "*"}), budget("one", {"team": "search", "env": "prod"})], [])
    search = planner.plan(values(team="search", env="prod"), NOW)
    other = planner.plan(values(team="ads", env="prod"), NOW)
    assert [b.name for b in search.buckets] == [
        f"usd|hour|{NOW}|team=search",
        f"usd|hour|{NOW}|team=search,env=prod",
    ]
    assert [b.name for b in other.buckets] == [f"usd|hour|{NOW}|team=ads"]


def test_two_rules_over_the_same_thing_share_a_bucket_and_the_stricter_limit_speaks() -> None:
    planner = Planner([budget("loose", {"team": "a"}, 500), budget("tight", {"team": "*"}, 50, overshoot_ppm=0)], [])
    (bucket,) = planner.plan(values(team="a"), NOW).buckets
    assert (bucket.rule, bucket.limit, bucket.ceiling) == ("tight", 50, 50)


def test_leaving_a_dimension_out_frees_nobody() -> None:
    planner = Planner([budget("per-user", {"end_user": "*"})], [])
    (bucket,) = planner.plan(values(team="a"), NOW).buckets
    assert bucket.scope == {"end_user": "unattributed"}


def test_the_plan_is_made_anew_when_its_first_window_ends() -> None:
    planner = Planner([budget("h", {"team": "*"})], [])
    first = planner.plan(values(team="a"), NOW + 3_599_999)
    second = planner.plan(values(team="a"), NOW + 3_600_000)
    assert first.until == NOW + 3_600_000
    assert second.buckets[0].start == NOW + 3_600_000
    assert first.buckets[0].name != second.buckets[0].name


def test_a_keys_own_budget_counts_beside_the_rules() -> None:
    planner = Planner([budget("h", {"team": "*"})], [])
    own = BudgetRule("key", {"key": "k1"}, 5, "usd", "day")
    who = values(team="a", key_id="k1")
    assert [b.rule for b in planner.plan(who, NOW, (own,)).buckets] == ["h", "key"]
    assert [b.rule for b in planner.plan(who, NOW).buckets] == ["h"]


def test_limits_become_rates_and_concurrency_a_bucket_of_live_calls() -> None:
    planner = Planner(
        [],
        [
            LimitRule("rpm", {"key": "*"}, "rate", 600, 60_000),
            LimitRule("tpm", {"team": "*"}, "tokens", 90_000, 60_000),
            LimitRule("parallel", {"team": "*"}, "concurrent", 50),
        ],
    )
    plan = planner.plan(values(team="a", key_id="k"), NOW)
    assert [(r.rule, r.unit, r.limit, r.period_ms) for r in plan.rates] == [
        ("rpm", "requests", 600, 60_000),
        ("tpm", "tokens", 90_000, 60_000),
    ]
    assert [(b.rule, b.unit, b.limit, b.ceiling) for b in plan.buckets] == [("parallel", "calls", 50, 50)]


def test_no_value_can_pose_as_another_dimension_or_break_a_name() -> None:
    text = scope_text({"team": "a,env=prod", "feature": "x y|z\n"})
    assert text == "team=a%2Cenv%3Dprod,feature=x%20y%7Cz%0A"
