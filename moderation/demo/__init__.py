"""The demo: a small model, sample posts, and `moderation demo`, which runs the service on them."""
