"""The reports of datasets and models: each is one self-contained HTML page."""
