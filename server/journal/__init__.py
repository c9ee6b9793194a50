"""What is kept of a run while it runs: MLflow, pictures, the rounds, the summary's entries."""
