"""SQL to plan: parse, resolve and type, join, group, prune; what is not supported is refused."""
