"""`python -m sightline.demo`: the whole story on real images, on this machine alone."""
