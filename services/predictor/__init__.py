"""Serves predictions of trained models with low latency."""
