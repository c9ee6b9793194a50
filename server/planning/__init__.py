"""All that can be known and prepared before a site hears of a run."""
