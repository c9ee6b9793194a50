"""The CNN-transformer with its evidence head, and what belongs to its weights."""
