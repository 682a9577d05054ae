"""`moderation bench`: ratios measured in one run, against the simplest program that does the same."""
