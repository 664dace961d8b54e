"""The reference: a page for every room, with the public names in it. ``src/scalespace/__init__.pyi`` is their only list."""

from __future__ import annotations

import ast
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File

PACKAGE = Path(__file__).parents[2] / "src" / "scalespace"

HIDDEN = "pipelines.bases"
"""Classes of diffusers, which are only there for it to find."""


def on_files(files: Any, config: Any) -> None:
    """MkDocs calls this with the files of docs, to which it may add."""
    for room, modules in public().items():
        files.append(File.generated(config, f"reference/{room}.md", content=page(room, modules)))


def public() -> dict[str, dict[str, list[str]]]:
    """The public names by module, and the modules by room."""
    rooms: dict[str, dict[str, list[str]]] = {}
    for node in ast.parse((PACKAGE / "__init__.pyi").read_text()).body:
        if isinstance(node, ast.ImportFrom) and node.module and node.module != HIDDEN:
            names = rooms.setdefault(node.module.partition(".")[0], {}).setdefault(node.module, [])
            names += [alias.name for alias in node.names]
    return rooms


def page(room: str, modules: dict[str, list[str]]) -> str:
    """The page of a room: what its modules say of themselves, and what is public in them.

    Args:
        room: Name of the room, a package or a module of ``scalespace``.
        modules: Public names by module.
    """
    package = PACKAGE / room / "__init__.py"
    said = (ast.get_docstring(ast.parse(package.read_text())) or "") if package.exists() else ""
    parts = [f"# scalespace: {room}", said, "All of these are imported from `scalespace` itself."]
    for module, names in modules.items():
        listed = "".join(f"\n        - {name}" for name in names)
        parts.append(f"::: scalespace.{module}\n    options:\n      members:{listed}")
    return "\n\n".join(part for part in parts if part)
