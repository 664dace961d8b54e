"""What measures a run while it is trained."""
