"""The values of expressions: the allow-list of functions and its kernels over Arrow columns."""
