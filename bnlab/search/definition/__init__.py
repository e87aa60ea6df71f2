"""Read a command line into the definition of a search."""
