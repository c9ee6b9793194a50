"""Between connector and trainer: a gRPC service on a Unix socket, and nothing else."""
