"""Models of diffusers, pretrained at one resolution, in the place of a network."""
