"""Explain a mistake in a command line, and what was probably meant, in one line."""
