import ast
import subprocess
import sys
from pathlib import Path

import pytest

import scalespace

IMPORTS = [
    node
    for node in ast.parse(Path(scalespace.__file__).with_suffix(".pyi").read_text()).body
    if isinstance(node, ast.ImportFrom)
]
LISTED = {alias.name: f"scalespace.{node.module}" for node in IMPORTS for alias in node.names}
"""The public names and their homes, as ``__init__.pyi`` has them."""

HEAVY = ("torch", "diffusers", "accelerate", "numpy", "PIL", "tyro", "torchvision")


def _loaded(code: str) -> set[str]:
    """Which heavy packages a fresh interpreter has loaded after running the code."""
    program = f"import sys\n{code}\nprint('loaded:', *(name for name in {HEAVY} if name in sys.modules))"
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    return set(run.stdout.splitlines()[-1].removeprefix("loaded:").split())


def test_importing_the_package_loads_nothing_else():
    assert _loaded("import scalespace; scalespace.__version__; dir(scalespace)") == set()


def test_importing_the_process_does_not_load_diffusers():
    assert _loaded("from scalespace import ScaleSpaceProcess, LinearBeta, Resizing, Ancestral, x0_loss") <= {
        "torch",
        "numpy",  # torch's own
    }


def test_everything_works_where_torchvision_cannot_be_imported():
    modules = sorted(
        ".".join(path.relative_to(Path(scalespace.__file__).parents[1]).with_suffix("").parts)
        for path in Path(scalespace.__file__).parent.rglob("*.py")
        if path.name != "__init__.py"
    )
    assert "scalespace.training.loop" in modules
    imports = "\n".join(f"import {module}" for module in modules)
    blocked = f"sys.modules['torchvision'] = None\n{imports}\nassert sys.modules.pop('torchvision') is None"
    assert "torchvision" not in _loaded(blocked)


@pytest.mark.parametrize("name", scalespace.__all__)
def test_every_public_name_resolves_to_what_its_home_makes_public(name: str):
    value = getattr(scalespace, name)
    assert value.__name__ == name
    assert name in sys.modules[LISTED[name]].__all__


def test_public_names_are_listed_once_each_and_under_their_own_name():
    assert sorted(LISTED) == sorted(scalespace.__all__)
    assert all(alias.name == alias.asname for node in IMPORTS for alias in node.names)
    assert len(LISTED) == sum(len(node.names) for node in IMPORTS)


def test_unknown_names_are_refused_and_dir_lists_the_public_ones():
    with pytest.raises(AttributeError, match="No scalespace attribute nothing"):
        _ = scalespace.nothing  # pyright: ignore[reportAttributeAccessIssue]
    assert set(dir(scalespace)) == {*scalespace.__all__, "__version__"}


def test_diffusers_finds_the_bases_of_a_saved_pipeline_here():
    from diffusers.configuration_utils import ConfigMixin
    from diffusers.models.modeling_utils import ModelMixin
    from diffusers.schedulers.scheduling_utils import SchedulerMixin

    assert (scalespace.ConfigMixin, scalespace.ModelMixin, scalespace.SchedulerMixin) == (  # pyright: ignore
        ConfigMixin,
        ModelMixin,
        SchedulerMixin,
    )
