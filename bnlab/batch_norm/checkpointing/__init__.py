"""Detect whether activation checkpointing is recomputing a forward, in eager mode and in compiled graphs."""
