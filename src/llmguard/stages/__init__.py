"""One file, one concern of a call: its frozen policy and its hooks. Their order is written once, in ``base``."""
