"""Training and measuring detectors: what the engine's loop must not know of them."""
