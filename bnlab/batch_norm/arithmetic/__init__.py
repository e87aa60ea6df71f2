"""What every form of batch norm is made of: its arguments, its formulas, and its running statistics."""
