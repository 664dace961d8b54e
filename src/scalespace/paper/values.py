"""The numbers in the paper's own tables, by data set (the name of the scale) and row. None is a dash in the paper.

FIDs compare 50,000 pictures with the training set. Hours are on one NVIDIA H100, or on two at 256 pixels. Seconds are for one
picture in 1000 steps on one NVIDIA A4000.

Source: Mukhopadhyay et al. 2026 (arXiv 2603.08709), tables 2, 3, 4, 7 and 8, and figure 5. Its GFLOPs are in
``scalespace.paper.gflops``.
"""

from __future__ import annotations

__all__ = ["ARCHITECTURE", "MAIN", "NOISE_SECONDS", "SCHEDULES", "STEPS"]

MAIN: dict[tuple[str, str], tuple[float, float | None]] = {
    ("celeba64", "DDPM-eps"): (2.22, 70.30),
    ("celeba64", "DDPM-x0"): (2.98, 70.71),
    ("celeba64", "Blurring Diffusion"): (2.06, 71.79),
    ("celeba64", "SSD (2L)"): (2.14, 62.63),
    ("celeba64", "SSD (3L)"): (3.61, 56.13),
    ("celeba64", "SSD (4L)"): (4.28, 52.38),
    ("celeba128", "DDPM-eps"): (4.16, 50.50),
    ("celeba128", "DDPM-x0"): (3.50, 50.33),
    ("celeba128", "Blurring Diffusion"): (3.67, None),
    ("celeba128", "SSD (3L)"): (6.53, 31.71),
    ("celeba128", "SSD (5L)"): (10.47, 25.41),
    ("celeba256", "DDPM-eps"): (5.52, 87.31),
    ("celeba256", "DDPM-x0"): (5.47, 87.33),
    ("celeba256", "Blurring Diffusion"): (4.76, 88.08),
    ("celeba256", "SSD (3L)"): (7.79, 59.00),
    ("celeba256", "SSD (4L)"): (10.52, 51.70),
    ("celeba256", "SSD (6L)"): (13.50, 42.88),
    ("imagenet64", "DDPM-eps"): (12.82, None),
    ("imagenet64", "DDPM-x0"): (13.07, None),
    ("imagenet64", "Blurring Diffusion"): (15.34, None),
    ("imagenet64", "SSD (2L)"): (13.08, None),
    ("imagenet64", "SSD (4L)"): (17.89, None),
}
"""FID and training hours in the main results (tables 2 and 3)."""

ARCHITECTURE: dict[tuple[str, str], tuple[float, float]] = {
    ("celeba64", "full U-Net, 2L"): (2.33, 16.19),
    ("celeba64", "Flexi-UNet, 2L"): (2.26, 15.38),
    ("celeba64", "full U-Net, 4L"): (4.90, 16.28),
    ("celeba64", "Flexi-UNet, 4L"): (4.87, 13.43),
}
"""FID and seconds per picture of the two architectures (table 4)."""

SCHEDULES: dict[tuple[str, str], tuple[float, float]] = {
    ("celeba64", "Equal"): (9.64, 12.88),
    ("celeba64", "ConvexDecay 2"): (11.03, 11.71),
    ("celeba64", "ConvexDecay 0.5"): (4.87, 13.81),
    ("celeba64", "SigmoidLikeDecay 3"): (7.08, 13.06),
    ("celeba64", "TanhLikeDecay 3"): (8.09, 12.50),
}
"""FID and training hours of the resolution schedules with four levels (figure 5)."""

STEPS: dict[tuple[str, str, str], tuple[float, float]] = {
    ("celeba64", "DDPM-x0", "ancestral-1000"): (2.98, 1.00),
    ("celeba64", "DDPM-x0", "ancestral-250"): (14.00, 4.18),
    ("celeba64", "DDPM-x0", "ddim-25"): (4.70, 38.87),
    ("celeba64", "DDPM-eps", "ancestral-1000"): (2.22, 1.05),
    ("celeba64", "DDPM-eps", "ancestral-250"): (11.02, 4.18),
    ("celeba64", "DDPM-eps", "ddim-25"): (3.76, 38.06),
    ("celeba64", "SSD (2L)", "ancestral-1000"): (2.14, 1.18),
    ("celeba64", "SSD (2L)", "ancestral-250"): (2.87, 4.80),
    ("celeba64", "SSD (4L)", "ancestral-1000"): (4.28, 1.58),
    ("celeba64", "SSD (4L)", "ancestral-250"): (4.90, 5.91),
}
"""FID with fewer sampling steps, and the speedup over the first row (table 7)."""

NOISE_SECONDS: dict[tuple[str, str, str], float] = {
    ("celeba64", "SSD (2L)", "anisotropic"): 15.38,
    ("celeba64", "SSD (2L)", "isotropic"): 15.35,
    ("celeba64", "SSD (4L)", "anisotropic"): 13.43,
    ("celeba64", "SSD (4L)", "isotropic"): 13.40,
}
"""Seconds per picture with the noise at changes drawn by Lanczos, and with white noise (table 8, which has no FID)."""
