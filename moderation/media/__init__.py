"""From a post's images to pictures that a model can look at."""
