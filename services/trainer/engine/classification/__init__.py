"""Training and evaluation of classifiers: all that the training loop does not know about them."""
