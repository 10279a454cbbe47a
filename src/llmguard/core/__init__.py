"""The pure core: it decides and never waits. Standard library only, no I/O, no clock, no randomness."""
