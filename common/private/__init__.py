"""Training with noise: per-patient gradients, clipped, checked against a loop."""
