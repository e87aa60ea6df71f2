"""What is wrong with a command line, in one line that says what was probably meant."""
