"""The command line: its core, and the parts that other packages contribute."""
