"""Samplers decide which configurations a search tries."""
