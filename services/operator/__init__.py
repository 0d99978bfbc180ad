"""The operator: datasets, models, evaluations and batch predictions as custom resources of Kubernetes."""
