"""What a developer's machine lacks: a local Kafka, a seeded checkpoint."""
