"""Training and measuring classifiers: what the loop must not know of them."""
