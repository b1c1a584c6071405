"""What is timed; results lie in benchmarks/results."""
