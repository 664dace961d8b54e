"""Training of models that others have trained before: what they bring to a run."""
