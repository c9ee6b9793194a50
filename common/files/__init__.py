"""Files that a crash leaves whole, locks that end with their process, YAML read strictly."""
