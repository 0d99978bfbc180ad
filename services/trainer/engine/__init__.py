"""The torch side of training: one task in one process, measured in seconds since the task arrived. No network."""
