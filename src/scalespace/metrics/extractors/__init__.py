"""Feature extractors by name, and those that need an extra of the package."""
