"""``fovea-site check``: every finding with its remedy."""
