"""Flexi-UNet, the denoiser that runs only the layers a resolution needs."""
