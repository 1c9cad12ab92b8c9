"""Plain PyTorch, on one process or several: torchrun --nproc-per-node 2 examples/pytorch_ddp.py"""

import os

import torch
import torch.distributed as dist
from torch.nn.functional import mse_loss
from torch.nn.parallel import DistributedDataParallel

from adaloss_lightning import AdaLoss

STEPS = 200


def main() -> None:
    is_distributed = "RANK" in os.environ
    if is_distributed:
        dist.init_process_group("gloo")
    rank = dist.get_rank() if is_distributed else 0
    torch.manual_seed(0)
    network: torch.nn.Module = torch.nn.Linear(8, 1)
    target = torch.randn(8, 1)
    model = DistributedDataParallel(network) if is_distributed else network
    optimizer = AdaLoss(model.parameters(), lr=1.0, b0=0.01)  # far too small a b0: b grows to what is needed
    draws = torch.Generator().manual_seed(rank)  # each rank has data of its own
    for step in range(STEPS):
        inputs = torch.randn(32, 8, generator=draws)
        noise = 0.1 * torch.randn(32, 1, generator=draws)
        loss = mse_loss(model(inputs), inputs @ target + noise)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step(loss=loss)  # the mean over the ranks feeds b, so that b is the same on all of them
        if rank == 0 and step % 50 == 49:
            print(f"step {step + 1}: loss {loss.item():.2e}, b {optimizer.b[0].item():.3f}")
    if is_distributed:
        dist.destroy_process_group()


if __name__ == "__main__":
    main()
