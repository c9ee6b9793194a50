"""The rounds: ask, check, merge, measure, keep, tell; in the open or under masks."""
