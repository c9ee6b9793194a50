"""What an explanation says: its data first, its sentences from them."""
