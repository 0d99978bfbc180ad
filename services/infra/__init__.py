"""Adapters to the outside world: one module per system, each keeping a port's law on top of something that can fail."""
