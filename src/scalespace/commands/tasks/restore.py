"""``scalespace restore``."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

import tyro

from scalespace.commands.options.tasks import ModelOptions, Variations, report
from scalespace.commands.parsing import read
from scalespace.effects import Need, Needs
from scalespace.errors import UserError, cause
from scalespace.training.configuration import SolverName

__all__ = ["Arguments", "run"]


@dataclass(frozen=True, kw_only=True)
class Arguments(Variations):
    """The options of the command."""

    pictures: Annotated[tyro.conf.Positional[tuple[str, ...]], tyro.conf.arg(metavar="PICTURES")]
    """Measured pictures: files, folders or zips; --factor times smaller than the model's, or blurred and of its size."""
    operator: Literal["super-resolution", "blur"] = "super-resolution"
    """How they were measured: made smaller by a bilinear resize with antialiasing, or blurred by a Gaussian."""
    factor: int = 4
    """Only with --operator super-resolution: how many times smaller they were made."""
    blur: float = 2.0
    """Only with --operator blur: standard deviation of the Gaussian, in pixels."""
    noise: float = 0.05
    """Standard deviation of the noise in them, where black is -1 and white is 1."""
    guidance: Literal["ddrm", "pigdm", "mmps"] = "mmps"
    """How the model is guided by them: ddrm is quickest, mmps trusts the model most. docs/how-to/restoring.md compares them."""
    iterations: int = 2
    """Only with --guidance mmps: steps of conjugate gradients at every step; each costs about two network calls."""
    solver: SolverName = "ancestral"  # pyright: ignore[reportIncompatibleVariableOverride]
    """Solver that takes the steps. Not with --guidance ddrm, which has steps of its own."""
    spectrum_of: str | None = None
    """Pictures like those that are to be found, whose mean spectrum is measured. None takes one that most pictures have."""

    needs: ClassVar[Needs] = {
        **ModelOptions.needs,
        "factor": (
            Need(
                lambda given: given.operator == "super-resolution",
                "with --operator blur",
                "give --operator super-resolution",
            ),
        ),
        "blur": (
            Need(lambda given: given.operator == "blur", "with --operator super-resolution", "give --operator blur"),
        ),
        "iterations": (
            Need(lambda given: given.guidance == "mmps", "with --guidance {guidance}", "give --guidance mmps"),
        ),
        "solver": (
            Need(lambda given: given.guidance != "ddrm", "with --guidance ddrm", "give --guidance pigdm or mmps"),
        ),
    }

    def measurement(self, size: tuple[int, int]) -> Any:
        """How the pictures were measured, and how to guide.

        Raises:
            UserError: If an option does not fit the model.
        """
        from scalespace.tasks.restoring.measurement import Measurement, gaussian_blur, super_resolution
        from scalespace.tasks.restoring.restoration import Restoration

        try:
            blurs = self.operator == "blur"
            A = gaussian_blur(size, self.blur) if blurs else super_resolution(size, self.factor)
            return Measurement(A, self.noise), Restoration(self.guidance, self.iterations)
        except UserError as error:
            raise UserError(f"--{cause(error)}") from error


def run(words: list[str]) -> None:
    """Draw pictures of which small or blurred and noisy ones are given.

    The result agrees with them up to their noise, and what they leave open is drawn.

    example: scalespace restore noisy-small/ --factor 4 --noise 0.05 --output restored

    example: scalespace restore blurred.png --operator blur --blur 2 --guidance pigdm --variations 4 --output restored
    """
    given = read(Arguments, words, run)
    from scalespace.data.images import open_images
    from scalespace.data.spectrum import mean_spectrum
    from scalespace.tasks.folder import draw_into
    from scalespace.tasks.given import open_given
    from scalespace.tasks.restoring.prior import Prior, natural_spectrum
    from scalespace.tasks.restoring.restoration import restore
    from scalespace.tasks.restoring.told import ToldByLevel

    pipeline = given.ready(None if given.guidance == "ddrm" else given.solver)
    size = pipeline.scheduler.image_size
    measurement, how = given.measurement(size)
    pictures = open_given(given.pictures, [measurement.operator.out_size], pipeline.unet.in_channels, not given.quiet)
    spectrum = natural_spectrum(size)
    if given.spectrum_of is not None:
        data = open_images(given.spectrum_of, size, channels=pipeline.unet.in_channels, progress=not given.quiet)
        spectrum = mean_spectrum(data, not given.quiet)
    told = ToldByLevel(Prior(pipeline.scheduler.process, spectrum), measurement)
    misfits: list[float] = []
    files = draw_into(
        Path(given.output),
        pictures,
        pipeline,
        lambda measured, generators: restore(
            pipeline,
            measured,
            told,
            how,
            generator=generators,
            num_inference_steps=given.steps,
            class_labels=given.label,
        ),
        variations=given.variations,
        look=lambda measured, drawn: misfits.extend(measurement.misfit(measured, 2 * drawn.cpu() - 1).tolist()),
        **given.drawing(
            task="restore",
            operator=given.operator,
            **({"blur": given.blur} if given.operator == "blur" else {"factor": given.factor}),
            noise=given.noise,
            guidance=given.guidance,
            **({"iterations": given.iterations} if given.guidance == "mmps" else {}),
            solver="ddrm" if given.guidance == "ddrm" else given.solver,
            spectrum_of=given.spectrum_of,
        ),
    )
    misfit = sum(misfits) / len(misfits)
    line = f"measured again they differ from the given ones by {misfit:.2g} times the noise (1 is right)"
    report(files, given.output, {"misfit": misfit}, given.json, {"agreement": line})
