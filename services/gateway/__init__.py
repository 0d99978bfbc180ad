"""REST for clients of the retired services: a caller of the contract like any other, with its callers' own tokens."""
