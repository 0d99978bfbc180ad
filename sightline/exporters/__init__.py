"""Forms in which the images of a dataset are written for other tools."""
