"""The API: lookups, submissions, watches, and who may call them.

Only `grpc` knows a transport, and `role`, which opens it.
"""
