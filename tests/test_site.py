"""What makes the documentation site: pages for files outside of docs, the navigation, formulas and the reference.

``make lint`` builds the site itself, and fails at the first warning.
"""

import re
from importlib.util import module_from_spec, spec_from_file_location

import pytest
import yaml
from tests.documents import PAGES, ROOT

import scalespace

pytest.importorskip("mkdocs", reason="the extra docs is not installed")


def _hook(name):
    spec = spec_from_file_location(f"site_{name}", ROOT / "docs" / "site" / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _shown(nav):
    if isinstance(nav, str):
        return [nav]
    return [page for entry in (nav.values() if isinstance(nav, dict) else nav) for page in _shown(entry)]


def _configured_nav():
    text = (ROOT / "mkdocs.yml").read_text()
    return yaml.safe_load(re.search(r"^nav:\n.*?(?=^\w)", text, re.MULTILINE | re.DOTALL)[0])["nav"]


def test_every_page_is_in_the_navigation_once_and_new_how_tos_of_themselves():
    pages = [str(page.relative_to(ROOT / "docs")) for page in sorted((ROOT / "docs").rglob("*.md"))]
    made = ["changelog.md", "contributing.md", *(f"reference/{room}.md" for room in _hook("reference").public())]
    new = ["how-to/a-new-one.md"]
    assert sorted(_shown(_hook("navigation").filled(_configured_nav(), pages + made + new))) == sorted(
        pages + made + new
    )


def test_the_reference_has_every_public_name_but_the_bases_of_diffusers():
    reference = _hook("reference")
    pages = "\n".join(reference.page(room, modules) for room, modules in reference.public().items())
    named = re.findall(r"^        - (\w+)$", pages, re.MULTILINE)
    bases = {"ConfigMixin", "DiffusionPipeline", "ModelMixin", "SchedulerMixin"}
    assert sorted(named) == sorted(set(scalespace.__all__) - bases)


def test_every_formula_in_the_documents_can_be_drawn():
    mathml = _hook("mathematics").mathml
    text = "\n".join(
        re.sub(r"```.*?```|^ {4}.*?$|`[^`\n]*`", "", page.read_text(), flags=re.DOTALL | re.MULTILINE) for page in PAGES
    )
    shown, inline = re.findall(r"\$\$(.*?)\$\$", text, re.DOTALL), re.findall(r"(?<!\$)\$(?! )([^$]+?)\$(?!\$)", text)
    assert len(shown) > 10
    assert len(inline) > 50
    for formula in shown:
        assert 'display="block"' in mathml(formula, display=True)
    for formula in inline:
        assert "<math" in mathml(formula)


def test_formulas_are_drawn_where_they_are_marked():
    page = '<p><span class="arithmatex">\\(a &lt; b\\)</span> and <code>\\(c\\)</code></p>'
    drawn = _hook("mathematics").on_page_content(page)
    assert "<mo>&#x0003C;</mo>" in drawn
    assert drawn.endswith("and <code>\\(c\\)</code></p>")


def test_links_out_of_the_documents_lead_to_pages_of_the_site():
    linked = _hook("outside").linked
    text = "[a](../../src/scalespace/cli.py) [b](../../CHANGELOG.md#x) [c](cost.md#y) [e](../../tests)"
    assert linked(text, "docs/how-to/cost.md", "how-to/cost.md") == (
        "[a](../code/src/scalespace/cli.py.md) [b](../changelog.md#x) [c](cost.md#y) [e](../code/tests/index.md)"
    )
    code = "```\n[a](../src)\n```"
    assert linked(code, "docs/start.md", "start.md") == code


def test_documents_from_outside_keep_their_links():
    outside = _hook("outside")
    assert outside.linked("[a](docs/cluster.md)", "CHANGELOG.md", "changelog.md") == "[a](cluster.md)"
    assert {"docs/reading.md", "CHANGELOG.md", "LICENSE"} <= set(
        outside.targets((ROOT / "CONTRIBUTING.md").read_text(), "CONTRIBUTING.md")
    )


def test_a_source_is_fenced_by_more_than_it_holds(tmp_path, monkeypatch):
    outside = _hook("outside")
    monkeypatch.setattr(outside, "ROOT", tmp_path)
    for held, fence in (("a = 1", "~~~"), ("a = ~1", "~~~"), ("~~~~", "~~~~~")):
        (tmp_path / "a.py").write_text(held)
        assert f'\n{fence}{{.py linenums="1"}}\n{held}\n{fence}\n' in outside._page("a.py")
