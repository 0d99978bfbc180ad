"""The training loop of every network; it imports no task, a task is passed to it."""
