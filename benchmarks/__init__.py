"""Benchmarks; their results are in benchmarks/results."""
