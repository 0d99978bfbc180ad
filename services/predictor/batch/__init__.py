"""Batch predictions: a model's results for every image below a prefix or of a dataset, made by workers."""
