"""Comparison of runs: tables of what differs, of means over seeds, and of differences from a baseline."""
