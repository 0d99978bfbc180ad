"""The three services of Sightline and what they share."""
