"""The stages joined with the store and the engine: what the commands call."""
