"""Scripts that measure; each prints a table and writes benchmarks/results/<script>.json."""
