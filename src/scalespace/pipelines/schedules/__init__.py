"""What the scheduler takes from its options, in diffusers' names: noise of betas, bounds of predictions, timesteps by hand."""
