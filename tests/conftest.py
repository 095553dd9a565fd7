import os
import tempfile
from pathlib import Path

import hypothesis
import torch

os.environ["SECATEUR_STRICT"] = "1"  # a bug in a rule is an error, not a barrier
# Ultralytics writes its settings when it is imported.
os.environ.setdefault("YOLO_CONFIG_DIR", str(Path(tempfile.gettempdir(), "secateur-tests")))
os.environ["YOLO_OFFLINE"] = "true"
torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))
hypothesis.settings.register_profile(
    "laws", deadline=None, max_examples=60, suppress_health_check=[hypothesis.HealthCheck.too_slow]
)
hypothesis.settings.load_profile("laws")
