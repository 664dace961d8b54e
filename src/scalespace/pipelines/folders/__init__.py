"""The folders that models are saved in: what they hold, how they are written, and how diffusers and the Hub find them."""
