"""Before anything is spent: what a model costs, and how much information its resolutions leave."""
