"""Runs beside each other: what differs between them, means over seeds, differences from a baseline, as tables."""
