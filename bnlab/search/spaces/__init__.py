"""Spaces of searches: scales, parameters, conditions, and their form in Optuna."""
