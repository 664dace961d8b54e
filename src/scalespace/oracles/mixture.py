"""The mixture oracle: pictures from a Gaussian mixture that is fitted to patches, whose exact denoiser is known too.

A mixture of many Gaussians of low rank has what a single one lacks: flat patches, edges, and a denoiser that is not linear.
It is fitted by k-means and by EM, in which every component is a probabilistic principal component analysis: with S_k the
covariance of the patches weighted by their responsibilities, U_k its leading eigenvectors and Lambda_k their eigenvalues,

    v = sum_k w_k (mean of the other eigenvalues of S_k),   F_k = U_k (Lambda_k - v)^(1/2).

Sources: Tipping and Bishop 1999, Mixtures of probabilistic principal component analysers; Zoran and Weiss 2011, From
learning models of natural image patches to whole image restoration; Rabin et al. 2011, Wasserstein barycenter and its
application to texture mixing (sliced distances).
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from scalespace.diffusion.denoiser import GaussianMixture

__all__ = [
    "fit_mixture",
    "grey_patches",
    "log_likelihood",
    "mixture_moments",
    "sample_mixture",
    "sliced_wasserstein_squared",
]

_CHUNK = 1000  # pictures whose densities under all components are held at once
_KMEANS_STEPS = 10
_SHARE = 1e-3  # responsibilities below it do not enter a covariance


def grey_patches(pictures: Tensor, size: int, count: int, generator: torch.Generator) -> Tensor:
    """Cut square grey patches out of pictures at random places. Grey is the mean of the channels.

    Args:
        pictures: Pictures as uint8, shape (N, C, H, W).
        size: Side of a patch in pixels, at most H and W.
        count: Number of patches.
        generator: Source of the random places.

    Returns:
        Shape (count, size, size), float64 in [-1, 1].

    Raises:
        ValueError: If the pictures are smaller than the patches.
    """
    number, _, height, width = pictures.shape
    if min(height, width) < size:
        raise ValueError(f"patches of {size} pixels from pictures of {height}x{width}; give larger pictures")
    which, top, left = (
        torch.randint(bound, (count,), generator=generator) for bound in (number, height - size + 1, width - size + 1)
    )
    span = torch.arange(size)
    rows, columns = (top[:, None] + span)[:, :, None], (left[:, None] + span)[:, None, :]
    # Indexing around the channels puts them last.
    return pictures[which[:, None, None], :, rows, columns].double().mean(-1) / 127.5 - 1


def fit_mixture(
    patches: Tensor,
    components: int,
    rank: int,
    generator: torch.Generator,
    iterations: int = 5,
    on_iteration: Callable[[float], None] | None = None,
) -> GaussianMixture:
    """Fit a mixture of probabilistic principal component analysers with a common noise, by k-means and EM.

    Args:
        patches: Patches as float64, shape (N, H, W).
        components: Number of components K, at most N / 4.
        rank: Rank q of every component, 1..H W - 1.
        generator: Source of the choice of patches that k-means starts from.
        iterations: Number of rounds of EM.
        on_iteration: Called before every round with the mean log-likelihood of the patches.

    Returns:
        The fitted mixture.

    Raises:
        ValueError: If there are too few patches, or the rank is not in 1..H W - 1.
    """
    x = patches.flatten(1)
    number, pixels = x.shape
    if not 1 <= rank < pixels or components * 4 > number:
        raise ValueError(
            f"{components} components of rank {rank} from {number} patches of {pixels} pixels; "
            "give at least 4 patches a component and a rank below the number of pixels"
        )
    responsibilities = _k_means(x, components, generator)
    mixture = _maximised(x, responsibilities, rank, patches.shape[1:])
    for _ in range(iterations):
        joint = _joint_log_densities(mixture, x)
        if on_iteration is not None:
            on_iteration(float(joint.logsumexp(1).mean()))
        mixture = _maximised(x, joint.softmax(1), rank, patches.shape[1:])
    return mixture


def sample_mixture(mixture: GaussianMixture, count: int, generator: torch.Generator) -> Tensor:
    """Draw ``count`` pictures from the mixture, shape (count, 1, H, W), float64."""
    which = torch.multinomial(mixture.weights, count, replacement=True, generator=generator)
    z = torch.randn(count, mixture.factors.shape[-1], generator=generator, dtype=torch.float64)
    e = torch.randn(count, mixture.factors.shape[1], generator=generator, dtype=torch.float64)
    explained = torch.empty_like(e)
    for k in which.unique().tolist():
        explained[which == k] = z[which == k] @ mixture.factors[k].mT
    return mixture.means[which][:, None] + (explained + mixture.variance**0.5 * e).reshape(
        count, 1, *mixture.means.shape[1:]
    )


def log_likelihood(mixture: GaussianMixture, pictures: Tensor) -> Tensor:
    """Log-likelihood of every picture in nats, from shape (B, ..., H, W) to (B,). Channels are independent pictures."""
    flat = pictures.double().flatten(-2)
    densities = _joint_log_densities(mixture, flat.reshape(-1, flat.shape[-1])).logsumexp(1)
    return densities.reshape(flat.shape[0], -1).sum(1)


def mixture_moments(mixture: GaussianMixture) -> tuple[Tensor, Tensor]:
    """Mean (H W,) and covariance (H W, H W) of the mixture."""
    means = mixture.means.flatten(1)
    mean = mixture.weights @ means
    centred = torch.cat([(means - mean)[..., None], mixture.factors], dim=-1) * mixture.weights.sqrt()[:, None, None]
    columns = centred.permute(1, 0, 2).flatten(1)
    return mean, columns @ columns.mT + mixture.variance * torch.eye(len(mean), dtype=torch.float64)


def sliced_wasserstein_squared(first: Tensor, second: Tensor, directions: int, generator: torch.Generator) -> float:
    """Squared W_2 distance of two samples that are projected on random directions, averaged over the directions.

    Args:
        first: First sample, shape (N, n).
        second: Second sample, of the same shape.
        directions: Number of directions.
        generator: Source of the random directions.

    Raises:
        ValueError: If the samples differ in shape.
    """
    if first.shape != second.shape:
        raise ValueError(f"samples of shapes {tuple(first.shape)} and {tuple(second.shape)}; give both the same")
    axes = torch.randn(first.shape[1], directions, generator=generator, dtype=first.dtype)
    axes = axes / axes.norm(dim=0)
    return float(((first @ axes).sort(dim=0).values - (second @ axes).sort(dim=0).values).square().mean())


def _joint_log_densities(mixture: GaussianMixture, x: Tensor) -> Tensor:
    # log (w_k p(x | k)), shape (B, n) to (B, K), by Woodbury: only projections on the factors depend on k and x both.
    pixels, scale = x.shape[1], mixture.variance**0.5
    means, G = mixture.means.flatten(1) / scale, mixture.factors / scale
    R = torch.linalg.cholesky(G.mT @ G + torch.eye(G.shape[-1], dtype=torch.float64))
    P = torch.linalg.solve_triangular(R, G.mT, upper=False)
    columns, offsets = P.flatten(0, 1).mT, (P @ means[..., None]).squeeze(-1)
    constants = (
        mixture.weights.log()
        - R.diagonal(dim1=-2, dim2=-1).log().sum(-1)
        - pixels / 2 * math.log(2 * math.pi * mixture.variance)
    )

    def densities(part: Tensor) -> Tensor:
        explained = (part @ columns).unflatten(-1, offsets.shape) - offsets
        return constants + (explained.square().sum(-1) - torch.cdist(part, means).square()) / 2

    return torch.cat([densities(part) for part in (x / scale).split(_CHUNK)])


def _k_means(x: Tensor, components: int, generator: torch.Generator) -> Tensor:
    # Hard responsibilities, shape (N, K).
    centres = x[torch.randperm(len(x), generator=generator)[:components]]
    nearest = torch.cdist(x, centres).argmin(1)
    for _ in range(_KMEANS_STEPS):
        members = torch.nn.functional.one_hot(nearest, components).to(x.dtype)
        counts = members.sum(0)
        # A centre that lost all its patches stays where it is.
        centres = torch.where(counts[:, None] > 0, members.mT @ x / counts.clamp_min(1)[:, None], centres)
        nearest = torch.cdist(x, centres).argmin(1)
    return torch.nn.functional.one_hot(nearest, components).to(x.dtype)


def _maximised(x: Tensor, responsibilities: Tensor, rank: int, size: torch.Size) -> GaussianMixture:
    # A component without patches gets none of the weight but must stay a Gaussian: it is left out.
    shares = responsibilities.mean(0)
    kept = (responsibilities.sum(0) > 1).nonzero().flatten().tolist()
    means, vectors, values, rest = [], [], [], []
    for k in kept:
        members = (responsibilities[:, k] > _SHARE).nonzero().flatten()
        r = responsibilities[members, k] / responsibilities[members, k].sum()
        mean = r @ x[members]
        centred = (x[members] - mean) * r[:, None].sqrt()
        found, basis = torch.linalg.eigh(centred.mT @ centred)
        means.append(mean)
        vectors.append(basis[:, -rank:])
        values.append(found[-rank:])
        rest.append(found[:-rank].mean())
    weights = shares[kept] / shares[kept].sum()
    variance = float(weights @ torch.stack(rest))
    scales = (torch.stack(values) - variance).clamp_min(0).sqrt()
    return GaussianMixture(
        weights, torch.stack(means).unflatten(1, size), torch.stack(vectors) * scales[:, None, :], variance
    )
