"""Denoisers for several resolutions: Flexi-UNet, which runs only the layers a resolution needs, and FlexiTransformer."""
