"""The process that bnlab runs in: its signals, its limits, its import path, and what jobs do to it."""
