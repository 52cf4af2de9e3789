"""MySQL and MariaDB as a source: snapshot, binlog, types."""
