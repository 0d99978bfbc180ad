"""Runs the whole suite on one machine, for `sightline up`."""
