"""Pages for files outside of docs that a document links to, so that no link leads out of the site.

Sources become pages with line numbers, folders lists of what is in them, and documents pages like all others. Links are written
as they hold in the repository; here they are turned to those pages.
"""

from __future__ import annotations

import ast
import re
from pathlib import Path, PurePosixPath
from posixpath import normpath, relpath
from typing import Any

from mkdocs.structure.files import File

ROOT = Path(__file__).parents[2]

HOMES = {"README.md": "index.md", "CHANGELOG.md": "changelog.md", "CONTRIBUTING.md": "contributing.md"}
"""Documents at the root, and the pages that they are. The site has a first page of its own."""

LINK = re.compile(r"(\]\(|src=\")([^)\s\"#]+)")
_FENCED = re.compile(r"^(`{3,}|~{3,}).*?^\1", re.MULTILINE | re.DOTALL)

_origins: dict[str, str] = {}
"""Of every page from outside: its document in the repository."""


def on_files(files: Any, config: Any) -> None:
    """MkDocs calls this with the files of docs, to which it may add."""
    _origins.clear()
    waiting = ["CHANGELOG.md", "CONTRIBUTING.md"]
    for file in files.documentation_pages():
        waiting += targets(file.content_string, origin(file.src_uri))
    done = set()
    while waiting:
        name = waiting.pop()
        page = page_of(name)
        if name in done or files.get_file_from_path(page) is not None:
            continue
        done.add(name)
        if name.endswith(".md"):
            _origins[page] = name
            waiting += targets((ROOT / name).read_text(), name)
        content = _picture(name) or _page(name)
        files.append(File.generated(config, page, content=content))


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """MkDocs calls this with the text of every page."""
    here = page.file.src_uri
    if here.startswith("code/") and here not in _origins:
        return markdown
    return linked(markdown, origin(here), here)


def origin(page: str) -> str:
    """The file in the repository that a page of the site is made of."""
    return _origins.get(page, f"docs/{page}")


def targets(text: str, name: str) -> list[str]:
    """What a document links to in the repository, as paths from its root.

    Args:
        text: The document.
        name: Its own path from the root.
    """
    found = [_target(target, name) for _, target in LINK.findall(_FENCED.sub("", text))]
    return [target for target in found if target is not None and (ROOT / target).exists()]


def linked(text: str, name: str, page: str) -> str:
    """The document with its links turned to pages of the site.

    Args:
        text: The document.
        name: Its path from the root of the repository.
        page: The page of the site that it becomes.
    """

    def turned(found: re.Match[str]) -> str:
        target = _target(found[2], name)
        if target is None or not (ROOT / target).exists():
            return found[0]
        return found[1] + relpath(page_of(target), PurePosixPath(page).parent)

    parts, end = [], 0
    for fenced in _FENCED.finditer(text):
        parts += [LINK.sub(turned, text[end : fenced.start()]), fenced[0]]
        end = fenced.end()
    return "".join([*parts, LINK.sub(turned, text[end:])])


def page_of(name: str) -> str:
    """The page of the site that shows a file or folder of the repository.

    >>> [page_of(name) for name in ("docs/notation.md", "CHANGELOG.md", "examples/train.py")]
    ['notation.md', 'changelog.md', 'code/examples/train.py.md']
    """
    if name in HOMES:
        return HOMES[name]
    if name.startswith("docs/"):
        return name.removeprefix("docs/")
    if (ROOT / name).is_dir():
        return f"code/{name}/index.md"
    return f"code/{name}" if name.endswith((".md", ".png", ".svg")) else f"code/{name}.md"


def _target(target: str, name: str) -> str | None:
    if re.match(r"[a-z]+:", target):
        return None
    path = normpath(PurePosixPath(name).parent / target)
    return None if path.startswith("..") else path


def _picture(name: str) -> bytes | None:
    return (ROOT / name).read_bytes() if name.endswith((".png", ".svg")) else None


def _page(name: str) -> str:
    path = ROOT / name
    if name.endswith(".md"):
        return path.read_text()
    unsearched = "---\nsearch:\n  exclude: true\n---\n"
    if path.is_dir():
        rows = [
            f"| `{file.name}` | {_first_line(file)} |" for file in sorted(path.iterdir()) if file.name[0] not in "._"
        ]
        return "\n".join([f"{unsearched}# {name}\n", "| file | what is in it |", "|---|---|", *rows])
    text = path.read_text()
    fence = "~" * (1 + max(2, *map(len, re.findall("~+", text)), 0))
    return f'{unsearched}# {name}\n\n{fence}{{.{path.suffix[1:] or "text"} linenums="1"}}\n{text}\n{fence}\n'


def _first_line(path: Path) -> str:
    module = path / "__init__.py" if path.is_dir() else path
    if module.suffix != ".py" or not module.exists():
        return ""
    said = (ast.get_docstring(ast.parse(module.read_text())) or "").partition("\n\n")[0]
    return " ".join(said.split()).replace("|", "\\|")
