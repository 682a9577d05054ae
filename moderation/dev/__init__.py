"""For development and tests: a local Kafka, its topics, free ports, a seeded checkpoint."""
