"""The pages of docs/results: what they say is what their tables hold."""

import re

import pytest
from benchmarks.figures import ALL, DATA, FIGURES, RESULTS, Appendix, Estimate, with_summary
from PIL import Image

TEXT = (RESULTS / "quality-appendix.md").read_text()
PAGE = (RESULTS / "quality.md").read_text()
APPENDIX = Appendix(TEXT)


def test_the_table_of_the_page_is_that_of_the_appendix():
    assert with_summary(PAGE, APPENDIX) == PAGE


def test_numbers_in_the_sentences_of_the_page_are_in_the_appendix():
    sentences = "\n".join(line for line in PAGE.splitlines() if not line.startswith("|"))
    numbers = set(re.findall(r"\d+\.\d+(?:e-\d+)?", sentences))
    assert len(numbers) > 20
    assert sorted(numbers - set(re.findall(r"\d+\.\d+(?:e-\d+)?", TEXT))) == []


@pytest.mark.parametrize("heading", [name for name, text in APPENDIX.sections.items() if re.search(r"^\|", text, re.M)])
def test_every_table_of_the_appendix_has_its_command_commit_and_seed(heading: str):
    source = APPENDIX.source(heading)
    assert source.command.startswith("python -m benchmarks.")
    assert "commit" in source.commit
    assert "seed" in source.commit or "nothing is random" in source.commit


@pytest.mark.parametrize("name", FIGURES)
def test_figures_carry_the_command_and_commit_of_their_table(name: str):
    heading = {"oracle-plane.png": "Two dimensions", "quality-trained.png": ALL}.get(name, "One dimension")
    with Image.open(RESULTS / name) as figure:
        caption = figure.info["Description"]
    assert APPENDIX.source(heading).command in caption
    for part in DATA if heading == ALL else [heading]:
        assert APPENDIX.source(part).commit in caption


def test_multiples_of_ddpm_have_the_interval_of_a_quotient():
    head = "| process | seeds | Frechet, features | SWD 32x32 | SWD mean |\n| --- | --- | --- | --- | --- |\n"
    rows = "| DDPM (`ddpm`) | 3 | 20 ± 0.8 | 1 | 50 |\n| SSD (`shifted`) | 3 | 10 ± 0.3 | 2 | 75 |\n"
    together = "| SSD (`shifted`) | 7 | 0.82 (0.75 to 0.91) | | |\n"
    appendix = Appendix(f"## Emoji\n\n{head}{rows}\n### {ALL}\n\n{head}{together}")
    # Half widths of 4 % and 3 % are 5 % together; without one there is a point.
    assert appendix.multiple("shifted", "Frechet, features", "Emoji") == pytest.approx(
        (0.5, 0.5 / 1.0513, 0.5 * 1.0513), 1e-4
    )
    assert appendix.multiple("shifted", "SWD", "Emoji") == Estimate(1.5, 1.5, 1.5)
    assert appendix.multiple("shifted", "Frechet, features", ALL) == Estimate(0.82, 0.75, 0.91)
