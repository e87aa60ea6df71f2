"""From a command line to the definition of a search."""
