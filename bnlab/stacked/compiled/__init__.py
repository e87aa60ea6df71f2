"""The C of stacks, and how it is called."""
