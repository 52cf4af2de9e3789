"""Redis and Valkey: JSON texts, hashes, plain strings and sorted sets, position included."""
