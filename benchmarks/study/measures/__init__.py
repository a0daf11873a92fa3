"""From the moments and pooled states of a run to its row of numbers."""
