"""The worker: posts in, verdicts out, each exactly once."""
