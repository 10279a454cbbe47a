"""Where a call goes and what it will cost there."""

from __future__ import annotations

from msgspec.structs import replace

from llmguard.core.decision import Refuse
from llmguard.core.effects import Steps
from llmguard.core.exchange import Exchange
from llmguard.core.money import FEMTO_PER_NANO, PLAIN_TIERS, Price, Rates
from llmguard.core.ports import PriceBook, Quote, Router
from llmguard.stages.base import PassiveStage

_FREE = Quote(Price(Rates(0, 0), "free"), 0, 0)


class Route(PassiveStage):
    """Picks the target from configuration and looks up its price.

    ``refuse_unknown`` turns a model without a known price away instead of charging the provider's dearest one.
    """

    def __init__(self, router: Router, prices: PriceBook, *, refuse_unknown: bool) -> None:
        self._router = router
        self._prices = prices
        self._refuse_unknown = refuse_unknown

    def open(self, x: Exchange) -> Steps[Refuse | None]:
        """Refuses with 400/404 `unknown_model` and 403 `not_priced`,
        403 `operation_forbidden`."""
        yield from ()
        if x.call.op == "forbidden":
            return Refuse(
                "operation_forbidden",
                403,
                f"{x.call.method} {x.call.endpoint} reaches what belongs to every team that shares the provider's key",
            )
        target = self._router.target(x.call)
        if isinstance(target, Refuse):
            return target
        x.target = target
        quote = self._quote(x)
        if isinstance(quote, Refuse):
            return quote
        x.quote = quote
        if target.model != x.call.model:
            x.edits = replace(x.edits, model=target.model)
        return None

    def _quote(self, x: Exchange) -> Quote | Refuse:
        op = x.call.op
        if op in ("free", "object"):
            return _FREE
        if op == "passthrough" or not x.call.metered:
            fee = x.target.fee_nano
            if fee is None:
                return Refuse(
                    "not_priced",
                    403,
                    f"{x.call.method} {x.call.endpoint} cannot be metered, so it is closed; an operator may open it "
                    f"with a price per request: providers.{x.target.provider}.passthrough: $0.01",
                )
            return Quote(Price(Rates(0, 0), "passthrough", per_request=fee * FEMTO_PER_NANO), 0, 0)
        # A cheaper tier is no promise: what the provider serves at its plain price is billed at that.
        tier = None if x.call.service_tier in PLAIN_TIERS else x.call.service_tier
        quote = self._prices.quote(x.target.provider, x.target.model, tier)
        if self._refuse_unknown and not quote.price.known:
            at = f" (service tier {tier!r})" if tier else ""
            return Refuse(
                "unknown_model",
                400,
                f"the price of {x.target.model!r}{at} at {x.target.provider!r} is not known and unknown models are "
                "refused here; an operator may add it under prices: in llmguard.yaml",
                param="model",
            )
        return quote
