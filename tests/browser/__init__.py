"""What a browser shows of image files, held against what the model is shown."""
