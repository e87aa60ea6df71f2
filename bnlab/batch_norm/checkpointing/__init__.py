"""Whether a forward is run again by activation checkpointing, in eager mode and in compiled graphs."""
