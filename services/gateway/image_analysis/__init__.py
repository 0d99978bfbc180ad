"""Azure's Image Analysis 4.0: datasets, models, evaluations and predictions."""
