"""Outages of a model server in real time, as figures."""
