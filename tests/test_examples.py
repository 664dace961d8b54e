import ast
import runpy
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import scalespace
from scalespace import Resize, open_images
from scalespace.cli import main as cli_main

EXAMPLES = sorted((Path(__file__).parents[1] / "examples").glob("*.py"))


def main_of(name):
    (path,) = (path for path in EXAMPLES if path.stem == name)
    return runpy.run_path(str(path), run_name=name)["main"]


def cells(path, side, columns):
    # Pictures of a grid, which are enlarged without smoothing and 2 pixels apart.
    with Image.open(path) as picture:
        pixels = np.asarray(picture)
    pitch = side + 2
    return [
        pixels[top : top + side, left : left + side]
        for top in range(0, len(pixels), pitch)
        for left in range(0, columns * pitch, pitch)
    ]


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_an_example_is_short_tells_what_it_shows_and_needs_public_names_alone(path):
    code = path.read_text()
    tree = ast.parse(code)
    assert 20 <= len(code.splitlines()) <= 90
    assert "Out comes" in (ast.get_docstring(tree) or "")
    imports = [node for node in ast.walk(tree) if isinstance(node, ast.Import | ast.ImportFrom)]
    modules = [node.module if isinstance(node, ast.ImportFrom) else node.names[0].name for node in imports]
    assert [name for name in modules if name.startswith("scalespace.")] == []
    ours = [node for node in imports if isinstance(node, ast.ImportFrom) and node.module == "scalespace"]
    assert {alias.name for node in ours for alias in node.names} <= set(scalespace.__all__)
    main = next(node for node in tree.body if isinstance(node, ast.FunctionDef) and node.name == "main")
    assert ast.literal_eval(main.args.defaults[0]).startswith(f"runs/examples/{path.stem}.")


def test_process_as_a_reader_runs_it(tmp_path, monkeypatch, capsys):
    output = tmp_path / "new" / "figure.png"
    monkeypatch.setattr(sys, "argv", ["process.py", str(output)])
    runpy.run_path(str(next(path for path in EXAMPLES if path.stem == "process")), run_name="__main__")
    printed = capsys.readouterr().out
    assert "the way back ends at the picture itself: True" in printed
    snr = {int(line.split()[0]): float(line.split()[3]) for line in printed.splitlines() if " px " in line}
    assert all(snr[t] > snr[t - 1] for t in (150, 250, 350))
    clean, down, up = np.split(np.stack(cells(output, 128, 9)), 3)
    assert (clean[0] == down[0]).all()
    assert (clean[0] == up[0]).all()
    assert (down[8] == up[8]).all()
    assert (down[1] != up[1]).any()


def test_train(tmp_path, capsys):
    output = tmp_path / "grid.png"
    main_of("train")(str(output), steps=2, batch=2, pictures=4)
    assert "step    0" in capsys.readouterr().out
    assert [picture.shape for picture in cells(output, 64, 2)] == [(64, 64, 3)] * 4


def test_own_operator(tmp_path, capsys):
    output = tmp_path / "grid.png"
    main_of("own_operator")(str(output), steps=1)
    assert "{500: 1.01" in capsys.readouterr().out
    pictures = cells(output, 64, 8)
    assert len(pictures) == 48
    # The kernel sums to one, so the operator keeps brightness.
    assert [abs(float(pictures[k].mean()) - float(pictures[8 + k].mean())) < 5 for k in range(8)] == [True] * 8
    assert (pictures[8][::8, ::8].repeat(8, 0).repeat(8, 1) == pictures[8]).all()


def test_own_degradation(tmp_path, monkeypatch):
    # Every command is a process of its own where a reader runs it; here all are one, which takes less time.
    def typed(words):
        monkeypatch.delitem(sys.modules, "own_degradation", raising=False)
        cli_main(words)

    monkeypatch.chdir(EXAMPLES[0].parent)
    monkeypatch.syspath_prepend(EXAMPLES[0].parent)
    output = tmp_path / "grid.png"
    main_of("own_degradation")(str(output), steps=2, run=typed)
    pictures = np.stack(cells(output, 64, 8))[8:, ::4, ::4].transpose(0, 3, 1, 2)
    data = open_images("synthetic:shapes:8", (16, 16)).batch(range(8))[0].double()
    mist = runpy.run_path(str(EXAMPLES[0].with_name("own_degradation.py")))["mist"]
    # What was enlarged is made small again as it was.
    assert (mist(torch.from_numpy(pictures.astype(float))) - mist(data)).abs().mean() < 3


def test_own_network(tmp_path):
    output = tmp_path / "grid.png"
    main_of("own_network")(str(output), steps=1)
    pictures = cells(output, 64, 8)
    assert len(pictures) == 32
    assert [picture.std() > 0 for picture in pictures] == [True] * 32
    text = next(path for path in EXAMPLES if path.stem == "own_network").read_text()
    _, own, _ = text.split("\n# ---", maxsplit=2)
    assert len(own.splitlines()) < 40


def test_solvers_prints_what_it_says_of_them(tmp_path):
    output = tmp_path / "table.md"
    main_of("solvers")(str(output), levels=(1, 4))
    rows = [line.strip("| ").split(" | ") for line in output.read_text().splitlines()[2:]]
    errors = {(title, solver): [float(cell) for cell in row] for title, solver, *row in rows}
    paper, shifted = ("4 levels, the paper's noise", "4 levels, shifted noise")
    assert errors[paper, "Corrected"][-2] == pytest.approx(errors[paper, "Corrected"][-1], rel=0.05)
    assert errors[paper, "Corrected"][-1] > 50 * errors[shifted, "Corrected"][-1]
    assert errors[shifted, "Corrected"][-1] < 2 * errors["DDPM", "Corrected"][-1]
    for title in ("DDPM", paper, shifted):
        slowest = max(errors[title, solver][2] for solver in ("Multistep", "Corrected"))
        assert slowest < min(errors[title, solver][4] for solver in ("Ancestral", "DDIM"))


def test_steering_does_what_it_says_of_its_rows(tmp_path):
    output, count = tmp_path / "rows.png", 60
    main_of("steering")(str(output), count=count)
    pictures = cells(output, 96, 9)
    data = open_images(f"synthetic:shapes:{count}", (32, 32)).batch(range(count))[0].permute(0, 2, 3, 1).numpy()

    def draws(row):
        return [picture[::3, ::3].astype(int) for picture in pictures[9 * row + 3 : 9 * row + 9]]

    def from_the_nearest(picture):
        return np.abs(data - picture).max((1, 2, 3)).min()

    assert [from_the_nearest(picture) <= 1 for row in (1, 2) for picture in draws(row)] == [True] * 12
    thumbnail = pictures[1][::12, ::12].transpose(2, 0, 1).astype(float)
    shrink = Resize((16, 16), (8, 8)) @ Resize((32, 32), (16, 16))

    def misses(row):
        small = [shrink(torch.from_numpy(picture.transpose(2, 0, 1).astype(float))).numpy() for picture in draws(row)]
        return np.mean([np.abs(picture - thumbnail).mean() for picture in small])

    assert misses(3) < 3 < misses(2) < misses(1)
