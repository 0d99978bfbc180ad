"""Labelled images as other tools export them, read into one form. Opens no connection."""
