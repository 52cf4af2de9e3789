"""Fewer bytes, same answer: log compaction, and immutable sorted runs with their merging."""
