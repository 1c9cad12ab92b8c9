"""A trained network as an MLflow model: with its signature, loadable anywhere, without pickle."""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from torch import Tensor, nn

from adaloss_lightning.tracking.errors import TrackingError
from adaloss_lightning.tracking.store import open_store


def log_model(
    run_id: str, module: nn.Module, example: Tensor, *, name: str = "model", tracking_uri: str | None = None
) -> str:
    """Logs `module` to a run, also to one that has ended, whose status stays what it is.

    The network is exported with `torch.export` in evaluation mode: the file holds its graph and weights, no pickled
    code, and `mlflow.pytorch.load_model` needs neither the class nor this package. Examples may come in batches of any
    size afterwards if `example` has at least two.

    Args:
        run_id: The run.
        module: Takes one tensor and gives one.
        example: Input, batch first; with what the network gives for it, the model's signature.
        name: Name of the model in MLflow.
        tracking_uri: The store; None as everywhere, `MLFLOW_TRACKING_URI` or the default one.

    Returns:
        Address for `mlflow.pytorch.load_model`, `models:/...`.

    Raises:
        TrackingError: The network cannot be exported.
        StoreError: The store cannot be used.
    """
    import mlflow.pytorch
    from mlflow.entities import LoggedModelOutput
    from mlflow.models import Model, infer_signature

    client = open_store(tracking_uri)
    run = client.get_run(run_id)
    inputs = example.detach().cpu()
    with TemporaryDirectory() as folder:
        path = Path(folder, "model")
        try:
            with _ready_for_export(module), torch.no_grad(), warnings.catch_warnings():
                warnings.simplefilter("ignore")  # of torch.export and MLflow about each other
                mlflow.pytorch.save_model(
                    _Plain(module),
                    path,
                    mlflow_model=Model(run_id=run_id),
                    signature=infer_signature(inputs.numpy(), module(inputs).numpy()),
                    input_example=inputs.numpy(),
                    serialization_format="pt2",
                    pip_requirements=[f"torch=={torch.__version__.partition('+')[0]}"],
                )
        except Exception as error:
            reason = " ".join(str(error).split())[:300]
            raise TrackingError(f"Cannot log {type(module).__name__} as an MLflow model: {reason}") from error
        model = client.create_logged_model(run.info.experiment_id, name=name, source_run_id=run_id)
        client.log_model_artifacts(model.model_id, str(path))
    client.finalize_logged_model(model.model_id, "READY")
    client.log_outputs(run_id, [LoggedModelOutput(model.model_id, step=0)])
    return str(model.model_uri)


@contextmanager
def _ready_for_export(module: nn.Module) -> Iterator[None]:
    """Inside the block the module is in main memory, as MLflow's example is, and in evaluation mode.

    Afterwards each part has its own mode, and each tensor is where it was, unchanged: it stays there meanwhile.
    """
    parts = list(module.modules())
    modes = [part.training for part in parts]
    gradients = [parameter.grad for parameter in module.parameters() if parameter.grad is not None]
    tensors = [(tensor, tensor.data) for tensor in (*module.parameters(), *gradients)]
    buffers = [(part, name, buffer) for part in parts for name, buffer in part._buffers.items()]
    try:
        module.eval().cpu()
        yield
    finally:
        for part, is_training in zip(parts, modes, strict=True):
            part.training = is_training
        for tensor, data in tensors:
            tensor.data = data
        for part, name, buffer in buffers:
            setattr(part, name, buffer)


class _Plain(nn.Module):
    # A LightningModule has hooks and a trainer around its network, which an exported graph has no use for.
    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module

    def forward(self, inputs: Tensor) -> Tensor:
        outputs: Tensor = self.module(inputs)
        return outputs
