"""How a site is doing, for people, machines and metrics."""
