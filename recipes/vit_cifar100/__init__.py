"""Table 1 of the paper: a pretrained ViT-S/16 fine-tuned on CIFAR-100 for a range of b0."""
