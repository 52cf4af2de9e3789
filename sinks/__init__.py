"""Delivery outward: one module per store, shared delivery rules, query, verify."""
