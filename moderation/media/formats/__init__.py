"""What the bytes of each picture format mean: files to frames, as browsers read them. All bytes are untrusted."""
