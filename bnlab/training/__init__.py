"""What every way of training a network shares."""
