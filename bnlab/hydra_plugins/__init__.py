"""The plugins that bnlab registers with Hydra, and its changes to Hydra."""
