"""Attacks that optimise a guess until its simulated update matches the observed one: presets of the engine."""
