"""How an image file becomes pixels: one set of rules for training, serving and drawing."""
