"""The Prometheus text format of a process's numbers. Never labelled by key or user: those are for the ledger."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Literal

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

CONTENT_TYPE = b"text/plain; version=0.0.4; charset=utf-8"


@dataclass(frozen=True, slots=True)
class Sample:
    """One metric: its values by label set. Labels of one metric all have the same names."""

    name: str
    help: str
    kind: Literal["counter", "gauge"]
    values: Mapping[tuple[tuple[str, str], ...], float]


class _Samples(Collector):
    def __init__(self, samples: Iterable[Sample]) -> None:
        self._samples = samples

    def collect(self) -> Iterable[Metric]:
        for sample in self._samples:
            names = [name for name, _ in next(iter(sample.values), ())]
            family = (CounterMetricFamily if sample.kind == "counter" else GaugeMetricFamily)(
                sample.name, sample.help, labels=names
            )
            for labels, value in sample.values.items():
                family.add_metric([text for _, text in labels], value)
            yield family


def render(samples: Iterable[Sample]) -> bytes:
    """The body of `/metrics`."""
    registry = CollectorRegistry()
    registry.register(_Samples(samples))
    return generate_latest(registry)
