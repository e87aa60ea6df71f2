"""Sweeps from start to end."""
