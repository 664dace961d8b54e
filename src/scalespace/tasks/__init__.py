"""What a chain of resolutions can do with pictures that are given: enlarge, vary, fill in, invert, interpolate."""
