"""From a post and its questions to scores: queue, encoding, batches, and what is already known."""
