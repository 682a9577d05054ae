"""Small checkpoints with random weights: one module for each family, with `write(folder)`."""
