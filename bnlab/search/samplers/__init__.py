"""Samplers: where a search tries its configurations."""
