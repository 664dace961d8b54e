"""How many pictures a step of each resolution takes, and how processes and parts share them out.

A step at a low resolution costs a fraction of one at the full resolution. Let group g (steps of one pair of resolutions) have
probability p_g, and let c_g be the FLOPs and m_g the activations of one of its pictures. A step of group g takes

    natural            b_g = b
    constant-compute   b_g in proportion to 1 / c_g
    constant-memory    b_g in proportion to 1 / m_g
    least-variance     b_g in proportion to sqrt(v_g / c_g)

pictures, with one factor of proportion for all groups such that the expected compute of a step, sum p_g b_g c_g, is what
``batch_size`` pictures of every group cost. So the rules compare at equal compute and equal steps. Each batch's loss is a mean,
and the probabilities are untouched, so that every grid point keeps its weight in the objective.

v_g is the variance of one picture's gradient, E |grad - mean grad|^2. A batch of b_g has v_g / b_g, and the variance of the
gradient, sum p_g v_g / b_g, is least for a given compute, sum p_g b_g c_g, where b_g is in proportion to sqrt(v_g / c_g). It is
measured in the run from the gradients g_1 and g_2 of two batches of n pictures: E |g_1 - g_2|^2 = 2 v / n.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

from torch import Tensor

from scalespace.training.time_sampling import TimeGroup

__all__ = ["Batch", "LevelBatches", "LevelSampling", "batch_sizes", "gradient_variance", "parts", "share"]

LevelSampling = Literal["natural", "constant-compute", "constant-memory", "least-variance"]

_EVERY = 500
"""Steps between two measurements of the variance, and between two changes of the batch sizes."""
_MEMORY = 0.5  # of the running mean of log v, from one measurement to the next


def batch_sizes(
    rule: LevelSampling,
    batch_size: int,
    probabilities: Sequence[float],
    gflops: Sequence[float],
    activations: Sequence[float],
    variances: Sequence[float] | None = None,
) -> tuple[int, ...]:
    """Pictures that a step of each group takes.

    Args:
        rule: See the top of this file.
        batch_size: Pictures a step under "natural".
        probabilities: p_g, how often a step is of each group.
        gflops: c_g, GFLOPs of a picture in each group.
        activations: m_g, activations of a picture in each group, in any unit.
        variances: v_g, in any unit; "least-variance" is "natural" where they are not known yet.
    """
    if rule == "natural" or (rule == "least-variance" and variances is None):
        return (batch_size,) * len(gflops)
    shape = {
        "constant-compute": [1 / c for c in gflops],
        "constant-memory": [1 / m for m in activations],
        "least-variance": [math.sqrt(v / c) for v, c in zip(variances or gflops, gflops, strict=True)],
    }[rule]
    budget = batch_size * sum(p * c for p, c in zip(probabilities, gflops, strict=True))
    spent = sum(p * b * c for p, b, c in zip(probabilities, shape, gflops, strict=True))
    return tuple(max(1, round(budget / spent * b)) for b in shape)


def gradient_variance(first: Sequence[Tensor], second: Sequence[Tensor], pictures: int) -> float:
    """v, the variance of one picture's gradient, from the gradients of the mean losses of two batches of ``pictures`` each."""
    return pictures / 2 * sum(float((a - b).cpu().double().square().sum()) for a, b in zip(first, second, strict=True))


class LevelBatches:
    """The batch sizes of a run, step by step.

    Sizes change only at multiples of 500 steps and are fixed half way before, so that data can be read ahead.

    Args:
        rule: See the top of this file.
        batch_size: Pictures a step under "natural".
        probabilities: p_g, probability of each group.
        gflops: c_g, GFLOPs of a picture in each group.
        activations: m_g, activations of a picture in each group.
    """

    def __init__(
        self,
        rule: LevelSampling,
        batch_size: int,
        probabilities: Sequence[float],
        gflops: Sequence[float],
        activations: Sequence[float],
    ):
        self._rule: LevelSampling = rule
        self._known = (batch_size, tuple(probabilities), tuple(gflops), tuple(activations))
        self._tables = {0: batch_sizes(rule, *self._known)}
        self._log_variances: list[float] | None = None

    def sizes(self, step: int) -> tuple[int, ...]:
        """Pictures of a step of each group, over all processes; ``step`` is counted from 0."""
        return self._tables[max(block for block in self._tables if block <= step // _EVERY)]

    def due(self, step: int) -> bool:
        """Whether the variance is to be measured before this step."""
        return self._rule == "least-variance" and step % _EVERY == _EVERY // 2

    def learn(self, step: int, variances: Sequence[float]) -> None:
        """Take in what was measured at ``step``: from the next multiple of 500 steps on, the sizes follow it."""
        logs = [math.log(max(v, 1e-300)) for v in variances]
        before = self._log_variances or logs
        self._log_variances = [_MEMORY * a + (1 - _MEMORY) * b for a, b in zip(before, logs, strict=True)]
        block = step // _EVERY
        current = self.sizes(step)
        variances = [math.exp(v) for v in self._log_variances]
        following = batch_sizes(self._rule, *self._known, variances)
        self._tables = {block: current, block + 1: following}

    def state(self) -> dict[str, Any]:
        """What a checkpoint has to keep, for JSON."""
        return {
            "tables": {str(block): list(sizes) for block, sizes in self._tables.items()},
            "log_variances": self._log_variances,
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Go back to what ``state`` gave."""
        self._tables = {int(block): tuple(sizes) for block, sizes in state["tables"].items()}
        self._log_variances = state["log_variances"]


class Batch(NamedTuple):
    """This process's pictures of a step."""

    group: TimeGroup
    """The steps of the process that they are for."""
    positions: range
    """Their places in the stream of training pictures."""
    whole: range
    """The places of all processes' pictures of the step."""
    images: Tensor
    """Pixels, uint8, shape (B, 3, H, W)."""
    labels: Tensor
    """Class labels, int64, shape (B,)."""
    flips: Tensor | None
    """Which pictures to mirror, bool, shape (B,)."""
    counts: bool = True
    """False where another process has these pictures too, and they are only run so that the same layers have gradients."""


def share(whole: range, rank: int, count: int) -> range:
    """What a process takes of numbers that all share out. Sizes differ by at most one, and may be 0."""
    return range(whole.start + len(whole) * rank // count, whole.start + len(whole) * (rank + 1) // count)


def parts(batch: Batch, largest: int | None, least: int = 1) -> list[Batch]:
    """A batch cut into at least ``least`` parts of at most ``largest`` pictures.

    Where it has fewer pictures than parts, some run one that another has too, and do not count.
    """
    count = max(least, -(-len(batch.images) // (largest or len(batch.images))))
    found = []
    for positions in (share(batch.positions, index, count) for index in range(count)):
        run = positions or batch.positions[:1]
        own = slice(run.start - batch.positions.start, run.stop - batch.positions.start)
        flips = None if batch.flips is None else batch.flips[own]
        counts = batch.counts and len(positions) > 0
        found.append(Batch(batch.group, run, batch.whole, batch.images[own], batch.labels[own], flips, counts))
    return found
