"""From a decision to bytes: routing, upstream engines, and the relay between caller and provider."""
