"""Benches: ratios measured in one run, against the plainest thing that does the same. `moderation bench`."""
