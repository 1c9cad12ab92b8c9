"""Table 1 of the paper: a pretrained ViT-S/16 fine-tuned on CIFAR-100 for a range of b0."""

from adaloss_lightning.extras import require

require("recipes", "timm", "torchvision")
