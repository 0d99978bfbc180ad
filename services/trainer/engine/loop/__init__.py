"""The training loop of every network; it imports no vision task, one is passed to it."""
