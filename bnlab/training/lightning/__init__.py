"""Training a network by Lightning."""
