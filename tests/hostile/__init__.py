"""Hostile clients of the gRPC API, over real sockets on loopback, next to a good caller."""
