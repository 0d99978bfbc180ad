"""The whole suite on one machine, as `sightline up` runs it."""
