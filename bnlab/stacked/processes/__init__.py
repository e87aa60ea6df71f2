"""The processes in which stacks are trained, and the work that they get."""
