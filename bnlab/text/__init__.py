"""How values, commands and words are written and read."""
