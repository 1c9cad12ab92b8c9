"""A loop of your own on Hugging Face Accelerate: python examples/accelerate_loop.py"""

import torch
from torch.nn.functional import mse_loss
from torch.utils.data import DataLoader, TensorDataset

from adaloss_lightning import AdamLoss

try:
    from accelerate import Accelerator
except ModuleNotFoundError:
    raise SystemExit("accelerate is not installed: pip install accelerate") from None


def main() -> None:
    torch.manual_seed(1)
    accelerator = Accelerator(cpu=True)
    inputs = torch.linspace(-3, 3, 256).unsqueeze(1)
    network = torch.nn.Sequential(torch.nn.Linear(1, 64), torch.nn.Tanh(), torch.nn.Linear(64, 1))
    loader = DataLoader(TensorDataset(inputs, inputs.sin()), batch_size=32, shuffle=True)
    adaptive = AdamLoss(network.parameters(), lr=0.03)
    model, optimizer, loader = accelerator.prepare(network, adaptive, loader)
    for _ in range(30):
        for x, y in loader:
            loss = mse_loss(model(x), y)
            optimizer.zero_grad()
            accelerator.backward(loss)
            adaptive.record_loss(loss)  # Accelerate's step takes no loss: this one waits for it
            optimizer.step()
    print(f"loss {loss.item():.2e}, b {adaptive.b[0].item():.2f}")


if __name__ == "__main__":
    main()
