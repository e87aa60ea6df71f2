"""The results of a search, on screen and in files."""
