"""Other servers of models, each started by `bench_peers.py` with the Python of its own environment."""
