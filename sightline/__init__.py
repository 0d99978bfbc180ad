"""Sightline as a caller sees it: the contract's stubs, a client, the command line and the one-machine stack."""
