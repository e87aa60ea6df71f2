"""The spaces of searches, and how they are sampled."""
