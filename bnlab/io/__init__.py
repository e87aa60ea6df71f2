"""Files: atomic writing, careful reading, locks."""
