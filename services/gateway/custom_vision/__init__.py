"""Azure's Custom Vision: predictions, and the training calls that scripts use."""
