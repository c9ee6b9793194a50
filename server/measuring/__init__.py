"""The global model on reference sets: how right it is, and whether its maps hold."""
