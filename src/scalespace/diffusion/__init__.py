"""The process: what is noised how, and how to come back."""
