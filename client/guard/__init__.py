"""What may leave a site: agreed arrays, counts and words from lists, nothing else."""
