"""What ``fovea`` can be told, one file per matter."""
