"""Train one network from its config into its folder, for all commands that do so."""
