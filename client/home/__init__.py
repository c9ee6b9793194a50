"""A site's folder, its configuration, and whose its files are."""
