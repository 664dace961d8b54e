"""The commands that take pictures and draw others of them, one file each."""
