"""Attacks without optimisation: algebra on the update, exact where it applies, declining with a reason where not."""
