"""Clients of Kafka, and records out of the bytes of a fetch."""
