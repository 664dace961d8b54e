"""The training step.

Step k draws its resolution and its times from generators keyed by (seed, k), and every picture its noise from one keyed by
(seed, its position in the stream of training pictures). Nothing random is carried from step to step, so a run that is resumed
at a checkpoint goes on bit for bit as if it had not been stopped; and what a step computes does not depend on how many
processes share its pictures, up to rounding.

Gradients are added up over processes once a step, after the backward pass and in one piece. All processes draw the resolutions
of a step alike and so run the same layers; the others have no gradient anywhere and are not sent. (DistributedDataParallel
would search the graph for them in every step, and start sending in the backward pass, where a process that has failed
can no longer say so.)

Source of the objective: Mukhopadhyay et al. 2026 (arXiv 2603.08709), training.
"""

from __future__ import annotations

import json
import math
from collections import deque
from collections.abc import Collection, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from diffusers.training_utils import EMAModel
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from scalespace.data.batches import BatchOrder, to_model
from scalespace.data.images import ImageDataset
from scalespace.data.left_out import counted
from scalespace.diffusion.conditioning import augmented
from scalespace.diffusion.loss import x0_loss
from scalespace.diffusion.prediction import clean_image
from scalespace.errors import UserError, cause
from scalespace.files import write_file
from scalespace.networks.network import ask
from scalespace.operators.resize import Resize
from scalespace.pipelines.folders.card import UNKNOWN, Made
from scalespace.pipelines.pipeline import ScaleSpacePipeline
from scalespace.pipelines.scheduler import ScaleSpaceScheduler
from scalespace.processes import Processes
from scalespace.reading import parse_json
from scalespace.runs.averages import WIDTHS, PowerAverage, exponent, read_averages, write_averages
from scalespace.training.build import build_batches, build_times, loss_weight
from scalespace.training.configuration import TrainConfig, learning_rate
from scalespace.training.level_sampling import Batch, gradient_variance, share
from scalespace.training.recorder import Skipped, StepResult
from scalespace.training.sharded.held import Held, check_shapes, filled, not_finite
from scalespace.training.sharded.layout import Replicas, Shards
from scalespace.training.time_sampling import TimeGroup

__all__ = ["EMA_FILE", "Trainer"]

# Words of the random keys that keep the streams of one seed apart.
_GROUP, _TIMES, _NOISE, _DROPOUT, _CONDITION, _LABELS = range(6)
_AHEAD = 4
_PROBE = 8  # pictures of each of the two batches that a variance is measured with
# Options, or beginnings of their names, on which the number of pictures of each step depends.
_OF_BATCHES = ("batch_size", "level_sampling", "times", "change_share", "process.")
EMA_FILE = "ema.safetensors"
"""File of the averaged weights in a checkpoint."""
_POWERS_FILE = "averages.safetensors"
_PROGRESS_FILE = "progress.json"


class Trainer:
    """Network, optimizer and averaged weights, and the step that changes them.

    Args:
        config: Configuration of the run.
        accelerator: Device and precision.
        scheduler: Holds the process to train on.
        network: A ``Network`` with its initial weights.
        processes: Processes that share every step.
    """

    def __init__(
        self,
        config: TrainConfig,
        accelerator: Accelerator,
        scheduler: ScaleSpaceScheduler,
        network: Any,
        processes: Processes,
    ):
        self.config = config
        self.accelerator = accelerator
        self.processes = processes
        # Only its configuration counts, whatever it is wrapped in later.
        self._make = partial(type(network).from_config, network.config)
        self.follow(scheduler)
        if config.gradient_checkpointing:
            network.enable_gradient_checkpointing()
        kind = Shards if config.sharding == "fsdp2" else Replicas
        self.layout: Replicas = kind(processes, accelerator)
        self.layout.spread(network)
        # For "evaluation", since no wrapper is to send gradients; compiled, it shares its parameters with what is saved.
        self.network: Any = accelerator.prepare_model(network, evaluation_mode=True)
        self._saved = network
        optimizer = torch.optim.AdamW(network.parameters(), lr=config.learning_rate, weight_decay=config.weight_decay)
        self.optimizer: Any = accelerator.prepare_optimizer(optimizer)
        held: Any = self.layout.held(network)
        self.ema = EMAModel(
            held,
            decay=config.ema_decay,
            use_ema_warmup=True,
            power=config.ema_power,
            foreach=True,
        )
        gammas = map(exponent, WIDTHS if config.average_every else ())
        self.powers = [PowerAverage(held, gamma) for gamma in gammas]
        """Averages whose snapshots are kept."""
        self.network.train()
        self.pictures = 0
        """Pictures of the stream that the steps so far took, over all processes."""
        self.skipped = Skipped(0, 0)
        self._gathered: Held | None = None

    def follow(self, scheduler: ScaleSpaceScheduler) -> None:
        """Train on the process of this scheduler; its sizes are those of the network.

        Raises:
            UserError: If sample grids are wanted in fewer steps than the process needs.
        """
        self.scheduler = scheduler
        self.process = scheduler.process
        self.times = build_times(self.config, self.process)
        self.batches = build_batches(self.config, self._make, self.times)
        self.weight = loss_weight(self.config, self.process)
        if self.config.sample_every:
            try:
                scheduler.set_timesteps(min(self.config.sample_steps, self.process.timesteps))
            except ValueError as error:
                raise UserError(f"sample grids cannot be drawn with these --sample-steps: {cause(error)}") from error

    def steps(self, data: ImageDataset, first: int) -> Iterator[StepResult]:
        """Take the steps ``first`` to ``max_steps`` - 1, counted from 0, on pictures at full resolution."""
        order = BatchOrder(len(data), self.config.seed)
        for step, batch in enumerate(self._batches(data, order, first), start=first):
            if self.batches.due(step):
                # Measured by one: where processes differed by a rounding, their batches would differ from then on.
                variances = self.processes.first(partial(self._variances, data, order, step))
                self.batches.learn(step, variances)
            yield self.step(step, batch)

    def step(self, step: int, batch: Batch) -> StepResult:
        """Take one step, counted from 0, on this process's pictures of it."""
        for parameters in self.optimizer.param_groups:
            parameters["lr"] = learning_rate(self.config, step)
        loss = torch.zeros((), device=self.accelerator.device)
        with self.layout.together():
            for part in self.layout.parts(batch, self.config.micro_batch):
                part_loss = self.loss(step, part) * float(part.counts)
                self.accelerator.backward(part_loss)
                loss += part_loss.detach()
        self.processes.meet()
        self.layout.add(loss, self.network)
        norm = self.layout.clip(self.network, self.config.gradient_clip)
        # It is the norm over all processes, so all of them skip the same steps.
        finite = math.isfinite(norm.item())
        # In half precision the scaler leaves such a step out by itself, and goes on with a smaller scale.
        if finite or self.accelerator.scaler is not None:
            self.optimizer.step()
        # Gradients are removed, not zeroed: layers that the next step does not run keep weights and moments unchanged.
        self.optimizer.zero_grad(set_to_none=True)
        held: Any = self.layout.held(self.network)
        if finite:
            self.ema.step(held)
        # These are averages over all steps, also over those that left the weights as they were.
        for power in self.powers:
            power.step(held)
        self.skipped = self.skipped.after(finite)
        self.pictures = batch.whole.stop
        return StepResult(batch.group, len(batch.whole), loss, norm, self.skipped)

    def loss(self, step: int, batch: Batch) -> Tensor:
        """What a batch adds to the objective of its step: the sum over processes and parts is the mean over all pictures."""
        device, seed, whole = self.accelerator.device, self.config.seed, batch.whole
        # Grid points stay on the CPU, where the tables and the operators' eigenvalues are.
        own = slice(batch.positions.start - whole.start, batch.positions.stop - whole.start)
        t = self.times.times(batch.group, len(whole), _generator("cpu", seed, _TIMES, step))[own]
        torch.manual_seed(_key(seed, _DROPOUT, step, batch.positions.start))

        x_0 = to_model(batch.images.to(device, non_blocking=True), batch.flips)
        x0_s = self.process.degradation.operators(0 * t, t - 1)(x_0)
        marginal = self.process.marginal(x_0, t)
        x_t = marginal.draw(self._noise(_NOISE, batch.positions, tuple(marginal.mean.shape[1:])))
        labels = batch.labels.to(device) if self.config.network.num_classes is not None else None
        if labels is not None and (no_class := self._saved.no_class) is not None:
            lots = torch.rand(len(whole), generator=_generator("cpu", seed, _LABELS, step))[own]
            labels = labels.masked_fill((lots < self.config.label_dropout).to(device), no_class)
        condition = self._condition(x_0, batch.positions)
        with self.accelerator.autocast():
            log_snr, size = self.process.noise.log_snr(t), batch.group.target_size
            output = ask(self.network, x_t, t.to(device) - 1, log_snr, size, labels, **condition)
        M, point = self.process.degradation.operators(t - 1, t), batch.group.last if batch.group.is_change else t
        prediction = clean_image(self.scheduler.prediction, output.float(), x_t, point, M)
        weight = self.times.weight(batch.group) * self.weight(t)
        return x0_loss(prediction, x0_s, weight).sum() / len(whole)

    def _noise(self, word: int, positions: range, shape: tuple[int, ...]) -> Tensor:
        """White noise for pictures, each from a generator of its own; shape (len(positions), *shape)."""
        device = self.accelerator.device
        generators = (_generator(device, self.config.seed, word, position) for position in positions)
        return torch.stack([torch.randn(shape, generator=generator, device=device) for generator in generators])

    def _variances(self, data: ImageDataset, order: BatchOrder, step: int) -> list[float]:
        """The variance of one picture's gradient in every group."""
        parameters = list(self._saved.parameters())
        halves = [range(start, start + _PROBE) for start in (self.pictures, self.pictures + _PROBE)]
        found = []
        for index, group in enumerate(self.times.groups):
            gradients = []
            for half in halves:
                batch = self._read(data, order, group, half, half)
                # The halves have times of their own, and no step of the run has them.
                key = _key(_PROBE, step, index, half.start)
                all_gradients = torch.autograd.grad(self.loss(key, batch), parameters, allow_unused=True)
                gradients.append([g for g in all_gradients if g is not None])
            first, second = gradients
            found.append(gradient_variance(first, second, _PROBE))
        return found

    def _condition(self, x_0: Tensor, positions: range) -> dict[str, Tensor]:
        """What a network that is conditioned on smaller pictures is told besides: those of the clean ones, with noise."""
        if self.config.network.condition_size is None:
            return {}
        small = self.smaller(x_0)
        noise = self._noise(_CONDITION, positions, (1 + small[0].numel(),))
        # The first number of each picture, made uniform, is its level.
        level = self.config.condition_noise * torch.special.ndtr(noise[:, 0])
        return {"condition": augmented(small, level, noise[:, 1:].reshape(small.shape)), "condition_noise": level}

    def smaller(self, x_0: Tensor) -> Tensor:
        """The small pictures, of a run that enlarges such, of clean ones of shape (B, C, H, W)."""
        size = self.config.network.condition_size
        assert size is not None
        return Resize(self.scheduler.image_size, size)(x_0)

    def _batches(self, data: ImageDataset, order: BatchOrder, first: int) -> Iterator[Batch]:
        own, position = (self.processes.rank, self.processes.count), self.pictures

        def submit(pool: ThreadPoolExecutor, step: int) -> Future[Batch]:
            nonlocal position
            # Processes that run different layers would wait for each other, so all draw the group from one generator.
            group = self.times.draw(_generator("cpu", self.config.seed, _GROUP, step))
            size = self.batches.sizes(step)[self.times.groups.index(group)]
            whole = range(position, position + size)
            position = whole.stop
            return pool.submit(self._read, data, order, group, whole, share(whole, *own))

        # A thread reads ahead; decoding releases the interpreter's lock.
        with ThreadPoolExecutor(1) as pool:
            pending = deque(submit(pool, step) for step in range(first, min(first + _AHEAD, self.config.max_steps)))
            step = first + len(pending)
            while pending:
                batch = pending.popleft().result()
                if step < self.config.max_steps:
                    pending.append(submit(pool, step))
                    step += 1
                yield batch

    def _read(self, data: ImageDataset, order: BatchOrder, group: TimeGroup, whole: range, positions: range) -> Batch:
        # Where a step has fewer pictures than there are processes, some run one that is another's.
        run = positions or whole[:1]
        flips = order.flips(run) if self.config.flip else None
        return Batch(group, run, whole, *data.batch(order.indices(run)), flips, counts=len(positions) > 0)

    def save(self, path: Path) -> None:
        """Write everything that the next step depends on.

        Raises:
            UserError: If weights, averages or moments are not finite, from which no step leads on.
        """
        held = self._held()
        if (name := not_finite(held, self._names())) is not None:
            raise UserError(f"{name} is no longer finite; train in a new --output-dir with a lower --learning-rate")
        self.layout.save(path, held)
        # accelerate would load a registered object from a pickle that may run any code.
        averages = dict(zip(self._names(), held.average, strict=True))
        save_file(averages, path / EMA_FILE, {"optimization_step": str(self.ema.optimization_step)})
        if self.powers:
            write_averages(path / _POWERS_FILE, self._names(), held.powers)
        progress = {
            "pictures": self.pictures,
            "batches": self.batches.state(),
            "skipped": self.skipped,
            "processes": self.processes.count,
        }
        (path / _PROGRESS_FILE).write_text(json.dumps(progress, indent=2) + "\n")

    def load(self, path: Path, step: int, changed: Collection[str] = ()) -> None:
        """Go back to what ``save`` wrote after ``step`` steps.

        Args:
            path: Folder of the checkpoint.
            step: Number of steps taken.
            changed: Options that have changed since it was written.

        Raises:
            UserError: If the run has dropout, and the number of processes is another one; or if options have changed, and the
                weights no longer fit.
        """
        # Attention is where the sizes put it; no other option that may change has a say in shapes.
        if process := [name for name in changed if name.startswith("process.")]:
            check_shapes(path / EMA_FILE, self._saved, " and ".join(process))
        progress = path / _PROGRESS_FILE
        kept = parse_json(progress.read_text()) if progress.exists() else {}
        before, now = kept.get("processes", self.processes.count), self.processes.count
        if before != now and self.config.network.dropout > 0:
            raise UserError(
                f"{path} was written by {counted(before, 'process')}, and {now} would draw other masks of dropout, since "
                f"these depend on how a batch is cut; go on with {before}, or give a new --output-dir"
            )
        self.layout.load(self._saved, self.optimizer, path)
        for parameters in self.optimizer.param_groups:
            # What was saved of the optimizer has that of then.
            parameters["weight_decay"] = self.config.weight_decay
        with safe_open(path / EMA_FILE, framework="pt") as file:
            for name, average in zip(self._names(), self.ema.shadow_params, strict=True):
                average.copy_(self.layout.own(file.get_tensor(name)))
            self.ema.optimization_step = int(file.metadata()["optimization_step"])
        if self.powers:
            read_averages(path / _POWERS_FILE, self._names(), self.powers, self.layout.own)
        # Before there was such a file, every step took as many pictures.
        self.pictures = step * self.config.batch_size
        if kept:
            self.pictures = kept["pictures"]
            if not any(name.startswith(_OF_BATCHES) for name in changed):
                self.batches.restore(kept["batches"])
            self.skipped = Skipped(*kept.get("skipped", (0, 0)))
        if (name := not_finite(self._held(), self._names())) is not None:
            raise ValueError(f"{name} is not finite")

    @contextmanager
    def gathered(self, moments: bool = False) -> Iterator[None]:
        """Inside the block the first process can save by itself; all come to it. Only with ``moments`` a checkpoint, too."""
        self._gathered = self.layout.gather(self._saved, self._held(), moments)
        try:
            yield
        finally:
            self._gathered = None

    def _held(self) -> Held:
        """What this process has of weights, moments and averages: its own, or all where they are gathered."""
        own = Held(self._saved.state_dict(), self.optimizer.state_dict(), self.ema.shadow_params, self.powers)
        return self._gathered or own

    def save_snapshot(self, path: Path) -> None:
        """Write the averages that others are made of after training, in half precision."""
        powers = self._held().powers
        write_file(path, lambda file: write_averages(file, self._names(), powers, torch.float16), durable=True)

    def _names(self) -> list[str]:
        return [name for name, _ in self._saved.named_parameters()]

    def save_pipeline(self, path: Path, class_names: Sequence[str] = (), made: Made = UNKNOWN, **facts: Any) -> None:
        """Write the pipeline with the averaged weights, names of classes, facts for its manifest, and what its card says."""
        named = self.config.network.num_classes is not None and len(class_names) > 0
        with self.averaged() as network:
            pipeline = ScaleSpacePipeline(network, self.scheduler, dict(enumerate(class_names)) if named else None)
            pipeline.made = made
            pipeline.save_pretrained(path, facts=facts)

    @contextmanager
    def averaged(self) -> Iterator[Any]:
        """The network with the averaged weights in it, inside the block only. Where it lies in shards, all come to it."""
        network = self._saved
        if self.layout.sharded:
            # A copy, since a process that draws more pictures than another would wait for it inside of the shards.
            with torch.random.fork_rng(devices=[]):
                whole = self._make()
            device = "cpu" if self._gathered else self.accelerator.device
            average = self._gathered.average if self._gathered else self.layout.whole(network, self.ema.shadow_params)
            yield filled(whole.to(device), average).eval()
            return
        self.ema.store(network.parameters())
        self.ema.copy_to(network.parameters())
        try:
            yield network.eval()
        finally:
            self.ema.restore(network.parameters())
            network.train()


def _key(*words: int) -> int:
    """A seed for torch that differs wherever the words do."""
    return int(np.random.SeedSequence(words).generate_state(1, np.uint64)[0] >> np.uint64(1))


def _generator(device: torch.device | str, *words: int) -> torch.Generator:
    return torch.Generator(device).manual_seed(_key(*words))
