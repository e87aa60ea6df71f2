"""The parts that all forms of batch norm share: the arguments, the formulas and the running statistics."""
