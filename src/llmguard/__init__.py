"""Guardrails for LLM spend."""
