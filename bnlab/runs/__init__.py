"""A run's folder: what is in it, writing it, and reading it back."""
