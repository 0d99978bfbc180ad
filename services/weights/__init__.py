"""What `sightline weights` does: lists, fetches, adds and verifies packs of pretrained weights."""
