"""A loop of your own on Lightning Fabric: python examples/fabric_loop.py"""

import torch
from lightning.fabric import Fabric
from torch.nn.functional import mse_loss

from adaloss_lightning import AdamLoss, find_lr

STEPS = 200


def main() -> None:
    fabric = Fabric(accelerator="cpu", devices=1)
    fabric.launch()
    fabric.seed_everything(1)
    network = torch.nn.Sequential(torch.nn.Linear(1, 64), torch.nn.Tanh(), torch.nn.Linear(64, 1))
    inputs = torch.linspace(-3, 3, 256).unsqueeze(1)
    batches = [(part, part.sin()) for part in inputs[torch.randperm(256)].split(32)]

    def loss_of(module: torch.nn.Module, batch: tuple[torch.Tensor, torch.Tensor]) -> torch.Tensor:
        return mse_loss(module(batch[0]), batch[1])

    lr = find_lr(network, loss_of, batches, lambda parameters: AdamLoss(parameters, alpha="auto"))
    model, optimizer = fabric.setup(network, AdamLoss(network.parameters(), lr=lr, alpha="auto"))
    for step in range(STEPS):
        loss = loss_of(model, batches[step % len(batches)])
        optimizer.zero_grad()
        fabric.backward(loss)
        optimizer.step(loss=loss)
    print(f"found lr {lr:.2g}; loss {loss.item():.2e} after {STEPS} steps")


if __name__ == "__main__":
    main()
