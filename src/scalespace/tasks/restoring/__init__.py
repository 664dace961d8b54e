"""Restoring a picture of which a linear measurement with noise is given, y = A x_0 + tau n."""
