"""Elasticsearch (8 and 9) as a store."""
