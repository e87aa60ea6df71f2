"""The processes in which stacks are trained, and the distribution of work to them."""
