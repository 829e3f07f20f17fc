"""Settings shared by all tests."""

import os
import signal

# One thread a process: results do not depend on the machine, and pytest-xdist uses the other cores.
for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "POLARS_MAX_THREADS"):
    os.environ.setdefault(name, "1")
os.environ["HF_HUB_OFFLINE"] = "1"

# Shells start background jobs deaf to Ctrl-C, and their children inherit it; those that are tested must hear it.
signal.signal(signal.SIGINT, signal.default_int_handler)

import pytest  # noqa: E402
import torch  # noqa: E402
from hypothesis import settings  # noqa: E402

torch.set_num_threads(1)
# A busy machine is no failure.
settings.register_profile("mcil", deadline=None)
settings.load_profile("mcil")


@pytest.fixture(autouse=True)
def _seeded() -> None:
    """What a test draws does not depend on the tests before it."""
    torch.manual_seed(0)
