"""Classifier of 8x8 digits: three small networks to choose from, one training loop."""

from typing import Literal

from torch import Tensor, nn

from adaloss_lightning.extras import require
from recipes.digits.data import NUM_CLASSES
from recipes.shared.module import Classifier


def build_mlp(width: int = 2048) -> nn.Module:
    """Two-layer ReLU network with far more parameters than the 1,079 training examples: the setting of the theory."""
    return nn.Sequential(nn.Flatten(), nn.Linear(64, width), nn.ReLU(), nn.Linear(width, NUM_CLASSES))


def build_cnn(width: int = 16) -> nn.Module:
    """Three convolutions with BatchNorm, then the mean over the image and one linear layer."""

    def block(n_in: int, n_out: int, stride: int) -> list[nn.Module]:
        # BatchNorm brings its own shift, so the convolution needs no bias.
        return [nn.Conv2d(n_in, n_out, 3, stride, padding=1, bias=False), nn.BatchNorm2d(n_out), nn.ReLU()]

    return nn.Sequential(
        *block(1, width, 1),
        *block(width, 2 * width, 2),
        *block(2 * width, 4 * width, 2),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(4 * width, NUM_CLASSES),
    )


def build_vit(width: int = 64) -> nn.Module:
    """The VisionTransformer of timm on 16 patches of 2x2 pixels, four blocks of four heads."""
    require("recipes", "timm")
    # Only here: importing timm and torchvision takes seconds, and the other two networks do not need them.
    from timm.models.vision_transformer import VisionTransformer

    network: nn.Module = VisionTransformer(
        img_size=8,
        patch_size=2,
        in_chans=1,
        num_classes=NUM_CLASSES,
        embed_dim=width,
        depth=4,
        num_heads=4,
        mlp_ratio=2.0,
    )
    return network


_BUILDERS = {"mlp": build_mlp, "cnn": build_cnn, "vit": build_vit}


class DigitsModule(Classifier):
    """Trains one of three networks by cross-entropy; logs `{train,val,test}/loss` and `{val,test}/acc`.

    Args:
        net: The network: an over-parameterized two-layer `mlp`, a small `cnn` with BatchNorm, or a small timm `vit`.
        width: Hidden units (mlp), channels of the first convolution (cnn) or embedding size, a multiple of 4 (vit).
            None takes the network's own: 2048, 16 or 64.

    Raises:
        ValueError: A width that is not positive, or that the four heads of the vit cannot share.
    """

    def __init__(self, net: Literal["mlp", "cnn", "vit"] = "cnn", width: int | None = None) -> None:
        super().__init__()
        if width is not None and (width < 1 or (net == "vit" and width % 4)):
            raise ValueError(f"Invalid width={width}. Must be >= 1, and a multiple of 4 for the vit.")
        self.save_hyperparameters(logger=False)
        self.network = _BUILDERS[net]() if width is None else _BUILDERS[net](width)

    def forward(self, images: Tensor) -> Tensor:
        """Scores of the ten classes, shape `[n, 10]`, of images of shape `[n, 1, 8, 8]`."""
        scores: Tensor = self.network(images)
        return scores
