"""The gRPC edge: requests in, responses and statuses out."""
