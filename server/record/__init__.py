"""The durable record of a run: its summary, its checkpoints, what protects its patients."""
