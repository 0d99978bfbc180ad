"""A model for use without the suite: an archive with its networks in one format, and a script that runs it."""
