"""Inside a trained network, layer by layer: what goes into each normalization and activation, and what comes out."""
