"""Inspection of a trained network, layer by layer: the inputs and outputs of normalizations and activations."""
