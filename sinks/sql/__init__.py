"""The SQL sink: DuckDB, Postgres, and what else SQLAlchemy knows."""
