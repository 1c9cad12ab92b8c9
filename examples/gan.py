"""Manual optimization with two optimizers: python examples/gan.py

The callback asks autograd which loss reached which parameters, so that each optimizer is fed its own.
"""

import lightning.pytorch as pl
import torch
from torch.nn.functional import softplus
from torch.utils.data import DataLoader

from adaloss_lightning import AdaLossCallback


class GAN(pl.LightningModule):
    """Learns the normal distribution around 3."""

    def __init__(self) -> None:
        super().__init__()
        self.automatic_optimization = False
        self.generator = torch.nn.Sequential(torch.nn.Linear(4, 32), torch.nn.ReLU(), torch.nn.Linear(32, 1))
        self.critic = torch.nn.Sequential(torch.nn.Linear(1, 32), torch.nn.ReLU(), torch.nn.Linear(32, 1))

    def training_step(self, real: torch.Tensor, batch_idx: int) -> None:
        of_generator, of_critic = self.optimizers()
        fake = self.generator(torch.randn(len(real), 4))
        critic_loss = softplus(-self.critic(real)).mean() + softplus(self.critic(fake.detach())).mean()
        of_critic.zero_grad()
        self.manual_backward(critic_loss)
        of_critic.step()
        of_generator.zero_grad()
        self.manual_backward(softplus(-self.critic(fake)).mean())
        of_generator.step()

    def configure_optimizers(self) -> list[torch.optim.Optimizer]:
        return [torch.optim.Adam(part.parameters(), lr=0.03) for part in (self.generator, self.critic)]


if __name__ == "__main__":
    pl.seed_everything(1)
    trainer = pl.Trainer(max_epochs=6, accelerator="cpu", logger=False, callbacks=[AdaLossCallback()])
    model = GAN()
    trainer.fit(model, DataLoader(3 + torch.randn(4096, 1), batch_size=32))
    print(f"mean of what it makes: {model.generator(torch.randn(4096, 4)).mean().item():.2f}; of the data: 3")
    for name, value in sorted(trainer.callback_metrics.items()):
        print(f"{name}: {float(value):.3g}")
