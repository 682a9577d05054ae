"""Phi-3-Vision."""
