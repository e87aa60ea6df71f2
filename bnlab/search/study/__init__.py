"""The stored state of a search, and the trials that it still needs."""
