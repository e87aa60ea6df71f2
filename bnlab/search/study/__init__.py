"""What is stored of a search, and which trials it still needs."""
