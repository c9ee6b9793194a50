"""What people read of a run: tables, pages, curves, and what readers say in turn."""
