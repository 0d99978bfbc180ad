"""The outside world: one module per system, each holding a port's law over something that can fail."""
