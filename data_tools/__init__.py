"""Programs that make, fetch, convert and inspect data sets."""
