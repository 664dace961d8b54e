"""Linear maps between picture sizes, their transposes, and functions of their Gram matrices."""
