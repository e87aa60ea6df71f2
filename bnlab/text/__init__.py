"""Text: values, commands and words, written and read."""
