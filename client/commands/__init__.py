"""What ``fovea-site`` can be told, one file per matter."""
