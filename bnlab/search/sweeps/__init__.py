"""Sweeps, from their start to their end."""
