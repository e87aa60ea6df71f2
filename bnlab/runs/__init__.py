"""A run's folder: its files, writing them, and reading them back."""
