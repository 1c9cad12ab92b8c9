"""Fine-tuning of any image classifier that timm has."""

import platform
from typing import Any

import timm
import torch
from timm.data.config import resolve_model_data_config
from torch import Tensor

from recipes.shared.module import Classifier

NUM_CLASSES = 100


class FineTuning(Classifier):
    """Trains all weights by cross-entropy; logs `{train,val,test}/loss` and `{val,test}/acc`.

    Args:
        name: A network of timm. Those with weights: `timm.list_models(pretrained=True)`.
        pretrained: Starts from timm's weights, downloaded once, with a new head for 100 classes.
        images: What replaces timm's configuration of the network's images, such as
            `{mean: [0.5, 0.5, 0.5], std: [0.2, 0.2, 0.2], interpolation: bilinear, crop_pct: 0.875}`.
        options: More arguments for `timm.create_model`, for example
            `{pretrained_cfg_overlay: {file: vit_small.safetensors}}` for weights that are there already.
        channels_last: Keeps images and convolutions in the memory format that tensor cores prefer.
        compile: Compiles the network with torch.compile; the names in checkpoints stay the same.

    Attributes:
        data_config: What holds for the network's images: `input_size`, `interpolation`, `crop_pct`, `mean`, ...
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self,
        name: str = "vit_small_patch16_224",
        pretrained: bool = True,
        options: dict[str, Any] | None = None,
        images: dict[str, Any] | None = None,
        channels_last: bool = False,
        compile: bool = False,  # noqa: A002 - the name of the option everywhere in torch
    ) -> None:
        super().__init__()
        self.save_hyperparameters(logger=False)
        options = options or {}
        self.network = timm.create_model(name, pretrained=pretrained, num_classes=NUM_CLASSES, **options)
        self.data_config: dict[str, Any] = resolve_model_data_config(  # type: ignore[no-untyped-call]
            self.network, args=options | (images or {})
        )
        for key in ("mean", "std"):
            self.register_buffer(key, torch.tensor(self.data_config[key]).view(3, 1, 1), persistent=False)
        self.memory_format = torch.channels_last if channels_last else torch.contiguous_format
        self.network.to(memory_format=self.memory_format)
        if compile:
            self.network.compile()

    def forward(self, images: Tensor) -> Tensor:
        """Scores of the classes, shape `[n, 100]`.

        Args:
            images: Bytes of shape `[n, 3, height, width]`; standardized here, `(x / 255 - mean) / std`.
        """
        pixels = (images.to(self.mean.dtype).div_(255) - self.mean) / self.std
        scores: Tensor = self.network(pixels.contiguous(memory_format=self.memory_format))
        return scores

    def on_train_start(self) -> None:
        """Logs how many steps the run takes and on what machine: reports quote them."""
        for logger in self.trainer.loggers:
            logger.log_hyperparams({"machine": self._machine(), "steps": self.trainer.estimated_stepping_batches})

    def _machine(self) -> str:
        device = self.trainer.strategy.root_device
        name = torch.cuda.get_device_name(device) if device.type == "cuda" else f"{platform.machine()} {device.type}"
        return f"{self.trainer.world_size} x {name}, torch {torch.__version__}"
