"""The documents, and the code blocks in them."""

import re
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[1]
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), *ROOT.glob("src/scalespace/models/*/README.md")])

PROGRAMS = (
    "scalespace",
    "python",
    "torchrun",
    "accelerate",
    "srun",
    "make",
    "pip",
    ".venv/bin/pytest",
    ".ci/run",
    "export",
)
"""What a line of a shell begins with in the documents; a line of another block does not."""

_BLOCK = re.compile(
    r"^(?P<fence>`{3,})(?P<language>\w*)[^\n]*\n(?P<fenced>.*?)^(?P=fence)$"  # between fences
    r"|(?:(?<=\n\n)|\A)(?P<indented>(?:(?: {4}[^\n]*)?\n)+)",  # or indented, with empty lines inside
    re.MULTILINE | re.DOTALL,
)


@dataclass(frozen=True)
class Block:
    """A code block of a document.

    Args:
        page: The document.
        language: "python", "bash" and so on of a block between fences; "shell" of an indented one whose first line is a
            command, or a command after a dollar sign with its output under it; else "".
        text: The block, without its indentation.
    """

    page: Path
    language: str
    text: str

    @property
    def commands(self) -> list[str]:
        """The commands of a shell, with the lines that a backslash joins, and without comments, `VAR=x` and `> FILE`."""
        lines = [line.strip() for line in self.text.replace("\\\n", " ").splitlines()]
        if lines[0].startswith("$ "):
            lines = [line.removeprefix("$ ") for line in lines if line.startswith("$ ")]
        bare = [re.sub(r"^(\w+=\S+ )+| > .*|(?:^|\s+)#.*", "", line).strip() for line in lines]
        if self.language == "bash":
            return [line for line in bare if _is_command(line)]
        return [line for line in bare if line]

    def __str__(self) -> str:
        first = next((line for line in self.text.splitlines() if not line.startswith(("import", "from", "#"))), "")
        return f"{self.page.stem}: {first[:40]}"


def blocks(page: Path) -> list[Block]:
    """All code blocks of a document."""
    found = []
    for match in _BLOCK.finditer(page.read_text()):
        if match["fence"]:
            found.append(Block(page, match["language"], match["fenced"]))
        elif text := re.sub(r"(?m)^ {4}", "", match["indented"]).strip("\n"):
            first = re.sub(r"^(\$ )?(\w+=\S+ )*", "", text)
            found.append(Block(page, "shell" if _is_command(first) else "", text))
    return found


def _is_command(line: str) -> bool:
    return bool(line.split()) and line.split()[0] in PROGRAMS


ALL_BLOCKS = [block for page in PAGES for block in blocks(page)]
