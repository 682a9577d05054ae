"""What families of models share. Nothing here imports a family."""
