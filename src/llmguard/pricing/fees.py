"""What a search by a provider's own tool costs where the price catalog has no fee for it."""

from __future__ import annotations

from dataclasses import replace
from decimal import Decimal
from functools import cache
from typing import Final

from llmguard.core.money import Price
from llmguard.pricing.convert import femto_per_piece
from llmguard.pricing.prefixes import Prefixes, data_file

DEAREST_WEB: Final = femto_per_piece(Decimal(35))
"""The highest fee for a web search in the catalog: $35 per thousand (Google, for Gemini 2)."""
DEAREST_FILE: Final = femto_per_piece(Decimal("2.5"))
"""The highest fee for a file search in the catalog: $2.50 per thousand (OpenAI)."""


@cache
def _tables() -> tuple[Prefixes[str], Prefixes[str]]:
    data = data_file("search_fees.toml")
    return Prefixes(data["web"]), Prefixes(data["file"])


def with_search_fees(price: Price, model: str, worst: Price) -> Price:
    """``price`` with a fee for every kind of search: the data file's, else its own, else that of ``worst``."""
    web, file = (_fee(table.get(model)) for table in _tables())
    return replace(
        price,
        per_web_search=web or price.per_web_search or worst.per_web_search,
        per_file_search=file or price.per_file_search or worst.per_file_search,
    )


def _fee(dollars_per_thousand: str | None) -> int:
    return femto_per_piece(Decimal(dollars_per_thousand)) if dollars_per_thousand else 0
