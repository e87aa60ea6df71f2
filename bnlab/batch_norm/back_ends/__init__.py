"""What computes batch norm in eager mode: a C kernel on the CPU, torch's own batch norm, or plain torch."""
