"""What a newcomer needs and a deployment does not: a local Kafka, a small model, sample posts."""
