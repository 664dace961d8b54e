"""Formulas as MathML, which browsers draw by themselves: no script and no font is loaded.

A formula is written as on GitHub, $...$ within a line and $$...$$ as lines of its own.
"""

from __future__ import annotations

import html
import re
from typing import Any

from latex2mathml.converter import convert

_FORMULA = re.compile(r'<(span|div) class="arithmatex">\\([(\[])(.*?)\\[)\]]</\1>', re.DOTALL)


def on_page_content(content: str, **_: Any) -> str:
    """MkDocs calls this with the HTML of every page, in which arithmatex has marked the formulas."""
    return _FORMULA.sub(lambda found: mathml(html.unescape(found[3]), found[2] == "["), content)


def mathml(formula: str, display: bool = False) -> str:
    r"""The MathML of a formula in LaTeX.

    Args:
        formula: LaTeX without the dollar signs.
        display: Whether it stands on lines of its own.

    Raises:
        ValueError: If a command of LaTeX is not known; it would be shown as its name.

    >>> mathml("\\nonsense")
    Traceback (most recent call last):
    ...
    ValueError: the formula "\nonsense" has a command that is not known
    """
    drawn = convert(formula, display="block" if display else "inline")
    if "\\" in drawn:
        raise ValueError(f'the formula "{formula}" has a command that is not known')
    return drawn
