"""Which colours the samples of a picture are: what its file says of them, and how they become sRGB."""
