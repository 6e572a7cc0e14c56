"""Defenses that act after the clients: what the server sees of a round."""
