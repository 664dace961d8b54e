"""Makes diffusers know the pipeline of saved models, so that it loads them after ``import scalespace`` and nothing else.

A saved folder names its pipeline as diffusers names custom ones, by a file of code in the folder. Where this package has been
imported, that code has nothing to add, and diffusers is given the class that is installed. Nothing is imported for it: not
diffusers before others do, and no class before a folder asks for it.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Sequence
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder
from types import ModuleType
from typing import Any

__all__ = ["CODE", "CODE_FILE", "NETWORKS", "PACKAGE", "PIPELINE", "register_with_diffusers"]

PACKAGE = "scalespace"
PIPELINE = "ScaleSpacePipeline"
"""Name of the class of saved pipelines."""
CODE_FILE = "pipeline"
"""Name of the file of code in a saved folder, without its ending."""
NETWORKS = ("FlexiTransformer", "FlexiUNet", "PretrainedUNet")
"""Names of the classes of networks in saved pipelines."""
CODE = f"from {PACKAGE} import {', '.join(NETWORKS)}, {PIPELINE}, ScaleSpaceScheduler\n"
"""What is in that file, and in one for each part: the names of installed classes."""

_HOME = "diffusers.pipelines.pipeline_utils"  # of DiffusionPipeline


def register_with_diffusers() -> None:
    """Tell diffusers of the classes, now if it has been imported, or else as soon as it is."""
    if (home := sys.modules.get(_HOME)) is not None:
        _register(home)
    else:
        sys.meta_path.insert(0, _Waiting())


class _Waiting(MetaPathFinder):
    """Finds the module of DiffusionPipeline where Python finds it, and registers the classes once it has run."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        spec = PathFinder.find_spec(fullname, path) if fullname == _HOME else None
        if spec is not None and spec.loader is not None:
            run = spec.loader.exec_module

            def exec_module(module: ModuleType) -> None:
                run(module)
                _register(module)

            spec.loader.exec_module = exec_module
        return spec


def _register(home: Any) -> None:
    package, diffusers = sys.modules[PACKAGE], sys.modules["diffusers"]
    # Parts that a folder says are of a module among diffusers' pipelines are looked for there first.
    setattr(importlib.import_module("diffusers.pipelines"), PACKAGE, package)
    read = home.DiffusionPipeline._dict_from_json_file.__func__

    def read_and_name(cls: type, json_file: Any) -> Any:
        content = read(cls, json_file)
        if isinstance(content, dict) and content.get("_class_name") in (PIPELINE, [CODE_FILE, PIPELINE]):
            setattr(diffusers, PIPELINE, getattr(package, PIPELINE))
            content["_class_name"] = PIPELINE
        return content

    home.DiffusionPipeline._dict_from_json_file = classmethod(read_and_name)
