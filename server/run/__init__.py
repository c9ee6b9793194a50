"""A whole run from its YAML to its package, simulated or over real sites."""
