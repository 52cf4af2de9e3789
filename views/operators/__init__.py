"""Operators over deltas, the arrangements that they share, and the graph that joins them."""
