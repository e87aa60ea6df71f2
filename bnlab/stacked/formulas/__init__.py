"""The layers and losses of K networks, forward and backward by hand."""
