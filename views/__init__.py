"""SQL kept up to date: parse, plan, operators, arrangements, checkpoints, the maintainer."""
