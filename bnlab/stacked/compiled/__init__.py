"""The C code of stacks, and the interface to it."""
