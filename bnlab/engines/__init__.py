"""What trains one network from its config to its folder, whoever asks for it."""
