"""Hostile clients of the gRPC API, over real sockets on loopback, with a good caller beside them."""
