"""A site's part in sums that hide each site's update."""
