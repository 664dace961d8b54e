import pytest
from hypothesis import settings

# The same examples on every run and every machine; the first call of a kernel is no sign of a slow test.
settings.register_profile("scalespace", derandomize=True, deadline=None, max_examples=15, database=None)
settings.load_profile("scalespace")


@pytest.fixture(scope="session", autouse=True)
def _cache_of_the_user(tmp_path_factory):
    """Nothing that is kept between two commands comes from or goes to the cache of whoever runs the tests."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        yield
