"""The setting `LLMGUARD`: what it says, and one sentence for each mistake."""

from __future__ import annotations

from typing import Any

import pytest
from django.core.exceptions import ImproperlyConfigured
from django.test import override_settings

from llmguard.integrations.django.settings import Settings, function, read_settings


def test_nothing_written_is_everything_by_default() -> None:
    with override_settings(LLMGUARD={}):
        assert read_settings() == Settings(None, None, None, True, None)


def test_it_is_read_again_when_a_test_overrides_it() -> None:
    with override_settings(LLMGUARD={"LEDGER": "alias:default"}):
        assert (read_settings().alias, read_settings() is read_settings()) == ("default", True)
        with override_settings(LLMGUARD={"LEDGER": "sqlite:///own.db"}):
            assert (read_settings().ledger, read_settings().alias) == ("sqlite:///own.db", None)
        assert read_settings().alias == "default"


@pytest.mark.parametrize(
    ("written", "said"),
    [
        ({"LEDGAR": "x"}, "LLMGUARD has no key 'LEDGAR'; write 'LEDGER'."),
        ({"ledger": "x"}, "LLMGUARD has no key 'ledger'; write 'LEDGER'."),
        ({7: 7}, "LLMGUARD has no key 7; the keys are CONFIG, LEDGER, ATTRIBUTION, INSTRUMENT, ON_REFUSAL."),
        ({"INSTRUMENT": "yes"}, "LLMGUARD['INSTRUMENT'] is 'yes'; it must be True or False."),
        ({"INSTRUMENT": None}, "LLMGUARD['INSTRUMENT'] is None; it must be True or False."),
        ({"CONFIG": 3}, "LLMGUARD['CONFIG'] is 3; it must be the path of llmguard.yaml, or a mapping."),
        ("llmguard.yaml", "LLMGUARD is 'llmguard.yaml'; write LLMGUARD = {'CONFIG': BASE_DIR / 'llmguard.yaml'}."),
    ],
)
def test_a_mistake_is_one_sentence(written: Any, said: str) -> None:
    with override_settings(LLMGUARD=written), pytest.raises(ImproperlyConfigured) as caught:
        read_settings()
    assert str(caught.value) == said


def test_a_function_is_found_by_its_name() -> None:
    assert function("ATTRIBUTION", None) is None
    assert function("ATTRIBUTION", "tests.support.django_views.attribution") is not None
    with pytest.raises(ImproperlyConfigured, match=r"'ATTRIBUTION'\] names 'shop.llm.who', which cannot be imported"):
        function("ATTRIBUTION", "shop.llm.who")
    with pytest.raises(ImproperlyConfigured, match="which is no function"):
        function("ON_REFUSAL", "tests.support.django_views.URL")
