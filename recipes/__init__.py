"""The experiments of the paper and one that runs anywhere, each a folder with `python -m recipes.<name>`."""

from adaloss_lightning.extras import require

require("recipes", "mlflow")
