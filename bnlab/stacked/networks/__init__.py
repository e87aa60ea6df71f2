"""Train K networks as one: their steps and their updates."""
