"""How right a model is, where it looks, and how far its explanations hold."""
