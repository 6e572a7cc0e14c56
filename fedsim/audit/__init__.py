"""The audit of a federation that is not fedsim's own: what was recorded of it, and what can be rebuilt from that."""
