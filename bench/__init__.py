"""Benchmarks: figures of pbal beside those of its peers, in the same run. They print, and never fail."""
