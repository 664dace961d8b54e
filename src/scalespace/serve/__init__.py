"""A page in the browser that draws with a model while it is watched."""
