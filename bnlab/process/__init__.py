"""The process that bnlab runs in: signals, limits, the import path, and what jobs do to it."""
