"""The commands, one file each: what the command takes, and what it does."""
