from hypothesis import settings

# The same examples on every run and every machine; the first call of a kernel is no sign of a slow test.
settings.register_profile("scalespace", derandomize=True, deadline=None, max_examples=15, database=None)
settings.load_profile("scalespace")
