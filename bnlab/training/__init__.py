"""The code that all ways of training a network share."""
