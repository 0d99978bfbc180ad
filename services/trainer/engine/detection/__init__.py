"""Training and measuring detectors: all that is specific to them, behind the loop's VisionTask."""
