"""Every alert caused for real, under a real Prometheus: `make alerts`."""
