"""The floor of every comparison: answers that never look at the update."""
