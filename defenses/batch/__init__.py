"""Defenses that act on the batch that is trained on."""
