"""Where pictures come from, and how one file becomes pixels."""
