"""Pictures: where they come from, what the model sees of them, their order and their spectrum."""
