import getpass
import os
import signal
import sys
import tempfile
from pathlib import Path

import pytest
import torch
from hypothesis import settings

# The same examples on every run and every machine; the first call of a kernel is no sign of a slow test.
settings.register_profile("scalespace", derandomize=True, deadline=None, max_examples=15, database=None)
settings.load_profile("scalespace")


@pytest.fixture(scope="session", autouse=True)
def _interrupts_are_heard():
    """A shell lets what it runs in the background ignore interrupts, which the package then does not answer either."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session", autouse=True)
def _cache_of_the_user(tmp_path_factory):
    """Nothing that is kept between two commands comes from or goes to the cache of whoever runs the tests."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="session", autouse=True)
def _cache_of_compiled_code():
    """Where torch keeps compiled code is known from the start. Its first import by diffusers, in whichever test that is,
    writes the place into the environment, which is then no change of that test.
    """
    with pytest.MonkeyPatch.context() as patch:
        if "TORCHINDUCTOR_CACHE_DIR" not in os.environ:
            place = Path(tempfile.gettempdir(), f"torchinductor_{getpass.getuser()}").absolute()
            patch.setenv("TORCHINDUCTOR_CACHE_DIR", str(place))
        yield


@pytest.fixture(autouse=True)
def _program_as_it_was():
    """What belongs to the whole program is as the test found it, so that tests may come in any order."""
    before = _of_the_program()
    yield
    assert _of_the_program() == before


def _of_the_program() -> dict[str, object]:
    dispatch = sys.modules.get("diffusers.models.attention_dispatch")
    # Until it is imported it is as its import will make it.
    attention = os.environ.get("DIFFUSERS_ATTN_BACKEND", "native")
    return {
        "directory": Path.cwd(),
        "environment": {name: value for name, value in os.environ.items() if name != "PYTEST_CURRENT_TEST"},
        "dtype": torch.get_default_dtype(),
        "threads": torch.get_num_threads(),
        "gradients": torch.is_grad_enabled(),
        "deterministic": torch.are_deterministic_algorithms_enabled(),
        "matmul": torch.get_float32_matmul_precision(),
        "attention": dispatch._AttentionBackendRegistry._active_backend.value if dispatch else attention,
    }
