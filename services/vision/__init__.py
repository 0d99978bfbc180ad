"""What ingest, training and serving must agree on: pixels, networks, metrics and file formats."""
