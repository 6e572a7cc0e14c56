"""Defenses that change how a client computes its gradient."""
