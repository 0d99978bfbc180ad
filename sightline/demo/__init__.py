"""`python -m sightline.demo`: registers, trains, evaluates and predicts on real images, all on this machine."""
