"""Measurements: what classic compressors make of a run's text, and how fast training and generation are beside a peer."""
