"""The wheel and the sdist: what they hold, and that the wheel works where it is installed.

Here the packages that it needs are those of this environment; ``make package`` installs everything anew.
"""

import os
import subprocess
import sys
import tarfile
import zipfile
from email.parser import Parser
from pathlib import Path

import pytest
from tests.documents import ROOT

import scalespace

pytest.importorskip("hatchling", reason="the extra dev is not installed")

NAME = f"scale_space_diffusion-{scalespace.__version__}"


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    folder = tmp_path_factory.mktemp("dist")
    words = [sys.executable, "-m", "hatchling", "build", "-d", str(folder)]
    subprocess.run(words, cwd=ROOT, check=True, capture_output=True)
    return folder


def _in_the_source() -> set[str]:
    files = (ROOT / "src").rglob("*")
    return {str(file.relative_to(ROOT / "src")) for file in files if file.is_file() and "__pycache__" not in file.parts}


def test_the_wheel_holds_the_package_whole_and_nothing_else(built):
    with zipfile.ZipFile(built / f"{NAME}-py3-none-any.whl") as wheel:
        held = {name for name in wheel.namelist() if not name.startswith(f"{NAME}.dist-info/")}
        about = Parser().parsestr(wheel.read(f"{NAME}.dist-info/METADATA").decode())
        commands = wheel.read(f"{NAME}.dist-info/entry_points.txt").decode()
    assert held == _in_the_source()
    needed = (
        "py.typed",
        "__init__.pyi",
        "reports/run_page.html",
        "models/emoji64/unet/diffusion_pytorch_model.safetensors",
        "models/emoji64_guide/unet/diffusion_pytorch_model.safetensors",
    )
    assert {f"scalespace/{name}" for name in needed} <= held
    assert not any(part.startswith("test") for name in held for part in Path(name).parts)
    assert (about["Version"], about["Requires-Python"]) == (scalespace.__version__, ">=3.11")
    assert {"dev", "docs", "features", "plot"} <= set(about.get_all("Provides-Extra", []))
    assert "scalespace = scalespace.cli:main" in commands


def test_the_sdist_holds_what_the_wheel_is_built_of_and_the_tests(built):
    with tarfile.open(built / f"{NAME}.tar.gz") as sdist:
        held = {name.removeprefix(f"{NAME}/") for name in sdist.getnames()}
    assert {f"src/{name}" for name in _in_the_source()} <= held
    assert {
        "pyproject.toml",
        "README.md",
        "LICENSE",
        "tests/test_distribution.py",
        "docs/index.md",
        "mkdocs.yml",
    } <= held
    tops = {name.partition("/")[0] for name in held}
    assert not tops & {".git", ".venv", "runs", "site", "dist"}


def test_the_wheel_works_where_it_is_installed(built, tmp_path):
    place, wheel = tmp_path / "place", str(built / f"{NAME}-py3-none-any.whl")
    words = [
        "-m",
        "pip",
        "install",
        "--quiet",
        "--no-index",
        "--no-deps",
        "--no-compile",
        "--target",
        str(place),
        wheel,
    ]
    subprocess.run([sys.executable, *words], check=True, capture_output=True)
    environment = os.environ | {"PYTHONPATH": str(place)}

    def said(*command: str) -> str:
        run = subprocess.run(command, cwd=tmp_path, env=environment, check=True, capture_output=True, text=True)
        return run.stdout.strip()

    assert said(str(place / "bin" / "scalespace"), "--version") == scalespace.__version__
    program = "import scalespace; print(scalespace.__file__)"
    assert said(sys.executable, "-c", program) == str(place / "scalespace" / "__init__.py")
    # All commands are read for this one, and what they import.
    assert "#compdef scalespace" in said(sys.executable, "-m", "scalespace", "--print-completion", "zsh")
