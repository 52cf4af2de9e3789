"""Change data capture: sources, change batches, positions, the log and its formats."""
