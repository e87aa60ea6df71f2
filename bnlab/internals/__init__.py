"""The private names of other libraries, one file each, and what stands in for one that is missing."""
