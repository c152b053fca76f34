"""Networks, their blocks and norms, as parts."""
