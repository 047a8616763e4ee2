"""Benchmarks beside peers, in the same run. See ../README.md for what each figure counts."""
