"""How far pictures are from pictures."""
