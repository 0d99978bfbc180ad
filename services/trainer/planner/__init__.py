"""What comes next, and what it costs: pure decisions from records."""
