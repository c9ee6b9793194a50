"""From a collection's own files to a checked shard, read by the loader."""
