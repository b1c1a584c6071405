"""Bytes on disk -> arrays: shards, what a record holds, its frames."""
