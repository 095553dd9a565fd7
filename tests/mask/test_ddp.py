"""Masks under DistributedDataParallel: two processes, gloo."""

import subprocess
import sys

import pytest

SCRIPT = """
import sys, torch, torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel
from secateur import mask

rank, file = int(sys.argv[1]), sys.argv[2]
dist.init_process_group("gloo", init_method=f"file://{file}", rank=rank, world_size=2)
torch.manual_seed(0)
torch.set_num_threads(1)
model = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 8))
torch.manual_seed(rank)  # the processes draw different masks; those of the first one count
mask.prune(model, "random", amount=0.5)
ddp = DistributedDataParallel(model)
optimizer = torch.optim.SGD(ddp.parameters(), lr=0.1, momentum=0.9)
rigl = mask.RigL(model, optimizer, sparsity=0.5, end=20, every=3)
x = torch.randn(4, 8)
for step in range(8):
    optimizer.zero_grad()
    (ddp(x) - x).square().mean().backward()
    optimizer.step()
    rigl.step()
    if step == 6:
        mask.prune(model, scope="global", sparsity=0.75)
ddp(x)
mine = torch.cat([tensor.flatten() for tensor in [*model.parameters(), *model.buffers()]])
both = [torch.empty_like(mine) for _ in range(2)]
dist.all_gather(both, mine)
assert torch.equal(*both), "the processes differ"
assert mask.report(model).sparsity == 0.75, mask.report(model).sparsity
print("same", round(mask.report(model).sparsity, 2))
dist.destroy_process_group()
"""


@pytest.mark.slow
def test_two_processes_keep_the_same_masks(tmp_path):
    running = [
        subprocess.Popen(
            [sys.executable, "-c", SCRIPT, str(rank), str(tmp_path / "rendezvous")],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(2)
    ]
    for process in running:
        output, error = process.communicate(timeout=240)
        assert process.returncode == 0, error
        assert output == "same 0.75\n"
