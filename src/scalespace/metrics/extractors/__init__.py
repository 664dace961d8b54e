"""Feature extractors that need an extra of the package."""
