"""Turns the core's effects into calls; owns the clock, ids, background work and shutdown."""
