"""Further degradations: the Gaussian pyramid, and those that a user has written."""
