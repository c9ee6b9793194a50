"""Pages that people open: self-contained HTML made from the JSON beside it."""
