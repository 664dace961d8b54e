"""The card of a model, README.md: what it is, how it is used and what it was made of.

Everything in it is read off the model or was told by the run that trained it. What is not known is said to be unknown.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from scalespace.errors import printable

__all__ = ["CARD", "GRID", "UNKNOWN", "Made", "model_card"]

CARD, GRID = "README.md", "grid.png"
"""Names of the card and of the picture in it, in the folder of a model."""
_SHOWN = 20  # names of classes
_NOT_KNOWN = "Not known: the model was saved without its run."


@dataclass(frozen=True)
class Made:
    """How a model was made, as far as the one who saves it knows.

    Args:
        data: What it was trained on, by sentences.
        compute: What it was trained with, by name.
        figures: Measured figures by name, with their units and intervals.
        licence: Identifier of the licence, as the Hub has it, for example "apache-2.0". None where it is not known.
        grid: A picture of samples; it is copied beside the card.
    """

    data: Sequence[str] = ()
    compute: Mapping[str, Any] = field(default_factory=dict)
    figures: Mapping[str, str] = field(default_factory=dict)
    licence: str | None = None
    grid: Path | None = None


UNKNOWN = Made()
"""Nothing is known of how a model was made."""


def model_card(
    model: Mapping[str, Any], classes: Sequence[str], made: Made, steps: int, name: str | None = None
) -> str:
    """The card as Markdown, with the head that the Hugging Face Hub reads.

    Args:
        model: What the model is, by name.
        classes: Names of its classes in the order of their numbers; empty where they have none.
        made: How it was made.
        steps: Number of steps in the example.
        name: Name on the Hub. None where it has none yet.
    """
    tag = "class-conditional" if "classes" in model else "unconditional"
    head = [
        *("---", "library_name: diffusers", "pipeline_tag: unconditional-image-generation"),
        *([] if made.licence is None else [f"license: {made.licence}"]),
        *("tags:", "- scalespace", "- diffusers", "- scale-space-diffusion", f"- {tag}", "---", ""),
    ]
    module = str(model.get("degradation", "")).partition(":")[0]
    label = ", class_labels=[0]" if "classes" in model else ""
    use = [
        *(
            "```python",
            "# pip install scale-space-diffusion",
            "import scalespace",
            "from diffusers import DiffusionPipeline",
        ),
        # A model that is loaded imports nothing by itself.
        *([f"import {module}  # the degradation"] if module else []),
        *("", f'pipeline = DiffusionPipeline.from_pretrained("{name or "FOLDER OR OWNER/NAME"}")'),
        f'pipeline(num_inference_steps={steps}{label}).images[0].save("picture.png")',
        *("```", "", "Without `import scalespace`, `from_pretrained` needs `trust_remote_code=True`."),
    ]
    shown = ", ".join(f"`{printable(word).replace('`', '')}`" for word in classes[:_SHOWN])
    more = f" and {len(classes) - _SHOWN} more" if len(classes) > _SHOWN else ""
    sections: dict[str, Sequence[str]] = {
        "Use": use,
        "Model": [*_table(model), *(["", f"Classes: {shown}{more}."] if classes else [])],
        "Data": [printable(line) for line in made.data] or [_NOT_KNOWN],
        "Licence": ["Not stated; who publishes the model has to say it." if made.licence is None else made.licence],
        "Compute": _table(made.compute) or [_NOT_KNOWN],
        "Figures": _table(made.figures) or ["None were measured when the model was saved (`scalespace evaluate`)."],
    }
    if made.grid is not None:
        sections["Samples"] = [f"![samples]({GRID})"]
    body = ["# Scale Space Diffusion model", ""]
    for title, lines in sections.items():
        body += [f"## {title}", "", *lines, ""]
    source = "Mukhopadhyay, Udhayanan, Shrivastava, Scale Space Diffusion, CVPR 2026, https://arxiv.org/abs/2603.08709"
    return "\n".join([*head, *body, "## Source", "", f"{source}.", ""])


def _table(rows: Mapping[str, Any]) -> list[str]:
    if not rows:
        return []
    cells = (f"| {name} | {printable(str(value)).replace('|', '/')} |" for name, value in rows.items())
    return ["| | |", "|---|---|", *cells]
