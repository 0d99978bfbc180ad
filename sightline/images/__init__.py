"""Decodes image files by the same rules for training, serving and drawing."""
