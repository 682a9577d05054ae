"""A content-moderation service: posts in, policy verdicts out."""

__version__ = "0.1.0"
