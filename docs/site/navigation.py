"""Fills the patterns of the navigation in mkdocs.yml, so that a new page is in it by lying in the right folder."""

from __future__ import annotations

from fnmatch import fnmatch
from typing import Any


def on_files(files: Any, config: Any) -> None:
    """MkDocs calls this when all pages are known, and builds the navigation after it."""
    config.nav = filled(config.nav, [file.src_uri for file in files.documentation_pages()])


def filled(nav: list[Any], pages: list[str]) -> list[Any]:
    """The navigation with pages in the place of patterns.

    Args:
        nav: Entries as mkdocs.yml has them: pages, patterns with a *, and mappings of a title to one of them or to a list.
        pages: All pages. Those that an entry names are not taken for a pattern.

    >>> filled(["a.md", {"More": ["x/b.md", "x/*.md"]}], ["a.md", "x/c.md", "x/b.md"])
    ['a.md', {'More': ['x/b.md', 'x/c.md']}]
    """
    free = sorted(set(pages) - set(_named(nav)))

    def fill(entries: list[Any]) -> list[Any]:
        new: list[Any] = []
        for entry in entries:
            if isinstance(entry, dict):
                ((title, inside),) = entry.items()
                if not isinstance(inside, str):
                    new.append({title: fill(inside)})
                elif "*" in inside:
                    new.append({title: fill([inside])})
                else:
                    new.append(entry)
            elif "*" in entry:
                new += [page for page in free if fnmatch(page, entry) and page.count("/") == entry.count("/")]
            else:
                new.append(entry)
        return new

    return fill(nav)


def _named(entry: Any) -> list[str]:
    if isinstance(entry, str):
        return [entry]
    return [name for inside in (entry.values() if isinstance(entry, dict) else entry) for name in _named(inside)]
