"""The part of training that uses torch: one task per process, timed from its arrival. No network access."""
