"""Pure functions of arrays: no paths, no plans, no state."""
