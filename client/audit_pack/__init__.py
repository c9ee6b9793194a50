"""A model's pages on a site's own pictures: written at the site, never sent."""
