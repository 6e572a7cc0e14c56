"""Defenses that change the model that a client trains."""
