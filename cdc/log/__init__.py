"""The log: one protocol (`api`), two implementations (`embedded`, `kafka`)."""
