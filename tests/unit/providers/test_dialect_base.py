"""Strict JSON in, byte-exact edits out, typed fields, refusals and masked keys."""

import base64
import json
import os
import time
from decimal import Decimal
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llmguard.core.decision import Refuse
from llmguard.errors import BadCall
from llmguard.providers import base

CORPORA = Path(os.environ.get("LLMGUARD_CORPORA", Path(__file__).parents[4] / "shared" / "corpora"))
SUITE = CORPORA / "security" / "json_test_suite.jsonl"
DUPLICATES = {"y_object_duplicated_key.json", "y_object_duplicated_key_and_value.json"}


def accepts(body: bytes) -> bool:
    try:
        base.decode(body)
    except BadCall as error:
        return (error.status, error.code) != (400, "invalid_json")
    return True


def suite() -> list[tuple[str, str, bytes]]:
    if not SUITE.is_file():
        pytest.skip(f"no JSON test suite at {SUITE} (set LLMGUARD_CORPORA)")
    with SUITE.open() as lines:
        return [(c["name"], c["expect"], base64.b64decode(c["base64"])) for c in map(json.loads, lines)]


def test_the_json_test_suite_is_obeyed_for_objects() -> None:
    wrong = []
    for name, expect, text in suite():
        if expect == "either":
            accepts(text)
            accepts(b'{"a":' + text + b"}")
            continue
        is_object = text.lstrip(b" \t\r\n")[:1] == b"{"
        should = expect == "accept" and name not in DUPLICATES
        if accepts(text) != (should and is_object):
            wrong.append(name)
        if accepts(b'{"a":' + text + b"}") != should:
            wrong.append(f"{name} in an object")
    assert wrong == []


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b'{"a":1,"a":2}',
        b'{"a":{"b":1,"\\u0062":2}}',
        b'{"a":[{"b":1,"b":1}]}',
        b"\xef\xbb\xbf{}",
        b'{"a":NaN}',
        b'{"a":-Infinity}',
        b'{"a":"\\ud800"}',
        b'{"\\udc00":1}',
        b'{"a":"\xff"}',
        b'{"a":1}{}',
        b"{'a':1}",
        b"[]",
        b"null",
        b'"a"',
        b"1",
    ],
)
def test_what_parsers_disagree_about_is_refused(body: bytes) -> None:
    assert not accepts(body)


def nested(levels: int, opening: bytes = b'{"a":', closing: bytes = b"}") -> bytes:
    return opening * levels + b"1" + closing * levels


@pytest.mark.parametrize(("levels", "fine"), [(64, True), (65, False), (199, False), (200, False), (5_000, False)])
def test_nesting_ends_at_64(levels: int, fine: bool) -> None:
    assert accepts(nested(levels)) is fine
    assert accepts(b'{"a":' + nested(levels - 1, b"[", b"]") + b"}") is fine


def test_brackets_in_strings_and_side_by_side_are_no_nesting() -> None:
    assert accepts(json.dumps({"a": "[{" * 1_000, "b": [[{}]] * 1_000}).encode())


@pytest.mark.parametrize(
    "body",
    [
        b"[" * 10_000_000,
        b'{"a":' * 2_000_000,
        b'{"a":[' + b"[]," * 3_300_000 + b"0]}",
        b"{" + b",".join(b'"%d":0' % n for n in range(800_000)) + b"}",
        b'{"a":[' + b"1," * 4_900_000 + b"0]}",
        b'{"a":' + b"9" * 10_000_000 + b"}",
    ],
    ids=["arrays", "objects", "many arrays", "many members", "many numbers", "one number"],
)
def test_ten_hostile_megabytes_do_not_stall(body: bytes) -> None:
    started = time.process_time()
    assert not accepts(body)
    assert time.process_time() - started < 0.15


def test_a_long_text_and_a_long_list_of_tokens_pass() -> None:
    assert accepts(json.dumps({"input": "Now, then. " * 400_000}).encode())
    assert accepts(json.dumps({"input": [list(range(300_000))]}).encode())


def test_integers_are_read_exactly() -> None:
    assert base.take_int({"n": 2**63 - 1}, "n") == 2**63 - 1
    with pytest.raises(BadCall, match="between 0 and"):
        base.take_int({"n": 2**63}, "n")


@pytest.mark.parametrize("value", [True, "1", 1.5, float("inf"), [], {}])
def test_only_whole_numbers_are_integers(value: object) -> None:
    with pytest.raises(BadCall, match=r"'o\.n' must be an integer") as caught:
        base.take_int({"n": value}, "n", param="o.n")
    assert (caught.value.status, caught.value.code, caught.value.param) == (400, "invalid_type", "o.n")


def test_one_point_zero_is_one_and_null_is_absent() -> None:
    assert base.take_int({"n": 1.0}, "n") == 1
    assert base.take_int({"n": None}, "n") is None
    assert base.take_int({}, "n") is None


def test_bounds_are_named() -> None:
    with pytest.raises(BadCall, match="'n' must be between 1 and 8") as caught:
        base.take_int({"n": 9}, "n", minimum=1, maximum=8)
    assert caught.value.code == "invalid_value"


@pytest.mark.parametrize(
    ("take", "good", "bad", "words"),
    [
        (base.take_bool, True, 1, "true or false, not an integer"),
        (base.take_str, "x", False, "a string, not a boolean"),
        (base.take_object, {}, [], "an object, not an array"),
        (base.take_list, [], {}, "an array, not an object"),
    ],
)
def test_typed_fields(take, good: object, bad: object, words: str) -> None:
    assert take({"f": good}, "f") == good
    assert take({"f": None}, "f") is None
    with pytest.raises(BadCall, match=f"'f' must be {words}"):
        take({"f": bad}, "f")


@pytest.mark.parametrize("doc", [{}, {"model": None}, {"model": ""}])
def test_a_needed_string_must_be_there(doc: dict) -> None:
    with pytest.raises(BadCall, match="'model' is missing") as caught:
        base.need_str(doc, "model")
    assert caught.value.code == "missing_field"


@pytest.mark.parametrize(
    ("body", "changes", "result"),
    [
        (b"{}", {"a": b"1"}, b'{"a":1}'),
        (b" { } ", {"a": b"1"}, b' {"a":1 } '),
        (b'{ "b" : [1 , 2] }', {"a": b"1"}, b'{"a":1, "b" : [1 , 2] }'),
        (b'{"b":1}', {"a": b"1", "c": b"2"}, b'{"a":1,"c":2,"b":1}'),
        (b'{"a": {"x" : 1.50} , "b": 2}', {"b": b"3"}, b'{"a":{"x" : 1.50},"b":3}'),
        (b'{"a": 1e2, "b": 2}', {"b": b"3", "c": b"[]"}, b'{"c":[],"a":1e2,"b":3}'),
    ],
)
def test_splice_keeps_every_other_byte(body: bytes, changes: dict[str, bytes], result: bytes) -> None:
    assert base.splice(body, changes, present=json.loads(body)) == result


NAMES = st.text(max_size=4)
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=4),
    lambda v: st.lists(v, max_size=3) | st.dictionaries(NAMES, v, max_size=3),
    max_leaves=4,
)


@settings(max_examples=100, deadline=None)
@given(
    st.dictionaries(NAMES, VALUES, max_size=4), st.dictionaries(NAMES, VALUES, min_size=1, max_size=3), st.booleans()
)
def test_a_spliced_body_is_the_old_one_with_the_changes(doc: dict, changes: dict, ascii_only: bool) -> None:
    body = json.dumps(doc, ensure_ascii=ascii_only, indent=1).encode()
    spliced = base.splice(body, {name: json.dumps(v).encode() for name, v in changes.items()}, present=doc)
    assert base.decode(spliced) == doc | changes


def test_member_is_byte_for_byte() -> None:
    assert base.member(b'{"a": 1, "o": { "x" : [1.0,"\\u0041"] } }', "o") == b'{ "x" : [1.0,"\\u0041"] }'


def test_the_llmguard_object_has_decimal_strings() -> None:
    refuse = Refuse(
        "budget_exceeded",
        429,
        "…",
        rule="search",
        scope={"team": "search"},
        unit="usd",
        limit=50_000_000_000,
        spent=49_990_000_001,
        held=0,
        reset_at=1_767_225_600_001,
    )
    assert base.llmguard_object(refuse, "0198") == {
        "scope": {"team": "search"},
        "rule": "search",
        "limit": "50",
        "spent": "49.990000001",
        "held": "0",
        "unit": "usd",
        "reset_at": "2026-01-01T00:00:01Z",
        "request_id": "0198",
    }
    assert Decimal(base.llmguard_object(refuse, "")["spent"]) == Decimal("49.990000001")


def test_the_llmguard_object_of_a_refusal_without_amounts() -> None:
    found = base.llmguard_object(Refuse("rate_limited", 429, "…", unit="requests", limit=600), "r")
    assert (found["limit"], found["spent"], found["reset_at"], found["scope"]) == ("600", None, None, {})


SECRETS = [
    b"sk-proj-abcDEF0123456789abcDEF",
    b"sk-ant-api03-abcdef-ABCDEF_0123456789",
    b"sk-or-v1-0123456789abcdef0123456789abcdef",
    b"AIzaSyA0123456789abcdefghijklmnopqrstuv",
    b"AQ.Ab8RN6Kabcdefghijklmnop",
    b"gsk_0123456789abcdefABCDEF",
    b"xai-0123456789abcdefABCDEF",
    b"hf_abcdefghijklmnopqrst",
    b"lg_prod_0198abcdef_0123456789abcdef",
    b"AKIAIOSFODNN7EXAMPLE",
    b"eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxMjM0In0.c2lnbmF0dXJl",
    b"ya29.a0AfH6SMBx-abcdefghijkl",
]


@pytest.mark.parametrize("secret", SECRETS)
@pytest.mark.parametrize("around", [b"%s", b'{"message":"Incorrect API key provided: %s. See"}', b"key='%s'"])
def test_keys_are_masked(secret: bytes, around: bytes) -> None:
    body = around.replace(b"%s", secret)
    masked = base.mask_secrets(body)
    assert secret[-8:] not in masked
    assert b"***" in masked
    assert base.mask_secrets(masked) == masked


def test_bearer_tokens_and_keys_in_urls_are_masked() -> None:
    masked = base.mask_secrets(b"Authorization: Bearer abcdef1234567890abcdef and /v1?key=0123456789abcdef&alt=sse")
    assert masked == b"Authorization: Bearer *** and /v1?key=***&alt=sse"


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b'{"error":{"message":"Incorrect API key provided: sk-ab12****************wxyz."}}',
        b"Missing bearer authentication in header",
        b"a task-force-of-many-people, risk-averse-investments",
        b"the key is wrong",
    ],
)
def test_a_body_without_keys_is_the_same_object(body: bytes) -> None:
    assert base.mask_secrets(body) is body


@pytest.mark.parametrize(
    "text", [b"eyJ-", b"eyJ.", b"sk-", b"sk-a.", b"Bearer ", b"Bearer  a", b"key=", b"a=b&key=c&", b"AKIA"]
)
def test_masking_a_hostile_megabyte_does_not_stall(text: bytes) -> None:
    started = time.process_time()
    base.mask_secrets(text * (1_000_000 // len(text)))
    assert time.process_time() - started < 1


def test_a_known_key_is_masked_whatever_it_looks_like() -> None:
    assert base.mask_secrets(b"bad key 3f2a, sorry", b"3f2a") == b"bad key ***, sorry"
