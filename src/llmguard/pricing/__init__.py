"""What a model costs and how much it can write: the shipped catalog with the configuration's prices laid over it."""

from llmguard.pricing.catalog import Catalog, Origin
from llmguard.pricing.overrides import Override

__all__ = ["Catalog", "Origin", "Override"]
