"""The API: what callers look up, submit and watch, and who may do so. No transport but in `grpc`."""
