"""Defenses that change what leaves the client."""
