"""Image files written by hand: what no library writes, and what it would never write."""
