"""Benchmarks: each prints ratios, or scores, measured side by side in one run."""
