import os

import hypothesis
import pytest
import torch

os.environ["SECATEUR_STRICT"] = "1"  # a bug in a rule is an error, not a barrier
torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))
hypothesis.settings.register_profile(
    "laws", deadline=None, max_examples=60, suppress_health_check=[hypothesis.HealthCheck.too_slow]
)
hypothesis.settings.load_profile("laws")


@pytest.fixture(autouse=True)
def _seeded():
    """Nothing in the suite depends on what ran before."""
    torch.manual_seed(0)
