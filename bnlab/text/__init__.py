"""Writing and reading of values, commands and words."""
