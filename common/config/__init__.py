"""The typed schema of a run's YAML: frozen, whole, each value checked, errors in plain words."""
