"""What the service is measured with: ratios of what was run in one go, on one machine."""
