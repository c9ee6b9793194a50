"""A package as a model that MLflow loads."""
