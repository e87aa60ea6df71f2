"""What Hydra is told of bnlab, and what of Hydra is changed."""
