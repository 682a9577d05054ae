"""The verdicts topic as a table."""
