"""What a search shows and writes in the end."""
