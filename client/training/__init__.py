"""The one room with pictures and torch: a round's local training and measuring."""
