"""Scores of reconstructions. The only part of fedsim that opens the sealed envelopes."""
