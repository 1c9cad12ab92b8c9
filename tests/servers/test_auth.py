"""Passwords and tokens: what needs them works with them, says so without them, and writes them nowhere."""

import datetime
import ipaddress
import ssl
import subprocess
import sys
from collections.abc import Iterator, Mapping
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import pytest
import yaml
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID
from mlflow.tracking import MlflowClient

import recipes.digits
from adaloss_lightning.tracking import BufferedMLFlowLogger, store
from adaloss_lightning.tracking.console.app import main
from adaloss_lightning.tracking.retry import require_answer
from recipes.digits.__main__ import main as digits
from tests.servers.conftest import PASSWORD, USER
from tests.servers.proxy import Fate, Proxy
from tests.servers.servers import TrackingServer
from tests.tracking.training import Line, end_of_process, runs_of, trainer

ADALOSS = Path(recipes.digits.__file__).parent / "adaloss.yaml"
TOKEN = "token-4f5c1c2b"


def files_with(secret: str, *folders: Path) -> list[Path]:
    """Every file below the folders, hidden ones included, that holds the secret."""
    files = [path for folder in folders for path in folder.rglob("*") if path.is_file() and not path.is_symlink()]
    assert files
    return [path for path in files if secret.encode() in path.read_bytes()]


def stored_texts(client: MlflowClient) -> Iterator[str]:
    """Whatever the tracking store says about its runs."""
    for experiment in client.search_experiments():
        yield str(experiment)
        for run in client.search_runs([experiment.experiment_id]):
            yield str(run.to_dictionary())


def sweep_and_report(module: str) -> None:
    sweep = ["sweep", "--recipe", module, "--methods", "adaloss", "--b0", "0.1,1", "--experiment", module]
    assert main(sweep) == 0
    assert main(["report", "--experiment", module]) == 0
    assert main(["ui", "--no-browser"]) == 0


def require_sweep(client: MlflowClient, name: str) -> None:
    runs = runs_of(client, name)
    assert [run.info.status for run in runs] == ["FINISHED"] * 3


def test_user_and_password_from_the_environment(
    module: str,
    folder: Path,
    auth_server: TrackingServer,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", auth_server.url)
    monkeypatch.setenv("MLFLOW_TRACKING_USERNAME", USER)
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", PASSWORD)
    sweep_and_report(module)
    client = MlflowClient(auth_server.url)
    require_sweep(client, module)
    assert files_with(PASSWORD, folder, auth_server.log.parent) == []
    assert not any(PASSWORD in text for text in stored_texts(client))
    printed = capfd.readouterr()
    assert PASSWORD not in printed.out + printed.err + caplog.text


@pytest.mark.parametrize("password", [None, "wrong-horse"])
def test_without_the_password_nothing_starts(
    module: str,
    auth_server: TrackingServer,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    password: str | None,
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", auth_server.url)
    if password is not None:
        monkeypatch.setenv("MLFLOW_TRACKING_USERNAME", USER)
        monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", password)
    for command in (
        ["sweep", "--recipe", module, "--methods", "adaloss", "--b0", "1", "--experiment", "closed"],
        ["report", "--experiment", "closed"],
        ["ui"],
    ):
        monkeypatch.setattr(store, "opened", set())  # as in a process of its own
        assert main(command) == 2
        error = capsys.readouterr().err
        assert error.startswith(f"adaloss: error: Cannot use the MLflow store {auth_server.url}")
        assert "You are not authenticated" in error
        assert "Set MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD" in error
        assert "Start the server" not in error
        assert "Traceback" not in error
        assert "wrong-horse" not in error


def test_a_token_from_the_environment(
    module: str,
    folder: Path,
    server: TrackingServer,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    refusals: list[str] = []

    def decide(method: str, path: str, headers: Mapping[str, str]) -> Fate:
        if headers.get("Authorization") == f"Bearer {TOKEN}":
            return "pass"
        refusals.append(path)
        return 401

    with Proxy(server.url, decide) as gateway:
        monkeypatch.setenv("MLFLOW_TRACKING_URI", gateway.url)
        assert main(["report", "--experiment", "any"]) == 2
        assert f"Cannot use the MLflow store {gateway.url}" in capfd.readouterr().err
        assert refusals
        monkeypatch.setenv("MLFLOW_TRACKING_TOKEN", TOKEN)
        refusals.clear()
        sweep_and_report(module)
        assert refusals == []
    client = MlflowClient(server.url)
    require_sweep(client, module)
    assert files_with(TOKEN, folder, server.log.parent) == []
    assert not any(TOKEN in text for text in stored_texts(client))
    printed = capfd.readouterr()
    assert TOKEN not in printed.out + printed.err + caplog.text


def test_a_password_in_the_address_of_a_recipe_is_kept_nowhere(
    folder: Path, auth_server: TrackingServer, capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    uri = auth_server.url.replace("//", f"//{USER}:{PASSWORD}@")
    short = [f"--trainer.limit_{stage}_batches=2" for stage in ("train", "val", "test")]
    digits(
        [
            "fit",
            f"--config={ADALOSS}",
            "--trainer.max_epochs=1",
            *short,
            f"--trainer.logger.init_args.tracking_uri={uri}",
        ]
    )
    client = MlflowClient(uri)
    (run,) = runs_of(client, "digits")
    assert run.info.status == "FINISHED"
    config = yaml.safe_load(Path(client.download_artifacts(run.info.run_id, "config.yaml")).read_text())
    # The file still leads to the store, for those who know the password.
    assert config["trainer"]["logger"]["init_args"]["tracking_uri"] == auth_server.url
    assert files_with(PASSWORD, folder, auth_server.log.parent) == []
    assert not any(PASSWORD in text for text in stored_texts(client))
    printed = capfd.readouterr()
    assert PASSWORD not in printed.out + printed.err + caplog.text


@pytest.fixture
def self_signed(tmp_path: Path) -> Iterator[tuple[str, Path]]:
    """Address of a server with TLS, and its certificate, which nobody has signed."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "127.0.0.1")])
    now = datetime.datetime.now(datetime.UTC)
    certificate = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), False)
        .sign(key, hashes.SHA256())
    )
    file = tmp_path / "server.pem"
    private = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    file.write_bytes(certificate.public_bytes(Encoding.PEM) + private)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(file)
    server = ThreadingHTTPServer(("127.0.0.1", 0), SimpleHTTPRequestHandler)
    server.socket = context.wrap_socket(server.socket, server_side=True)
    Thread(target=server.serve_forever, daemon=True).start()
    yield f"https://127.0.0.1:{server.server_address[1]}", file
    server.shutdown()
    server.server_close()


def test_a_certificate_that_is_not_trusted_is_named_at_once(
    folder: Path, self_signed: tuple[str, Path], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """MLflow itself tries again for minutes."""
    url, certificate = self_signed
    logger = BufferedMLFlowLogger("tls", tracking_uri=url, finalize_timeout=60)
    logger.log_metrics({"a": 1.0}, 0)
    logger.finalize("success")
    end_of_process()
    assert f"TLS with {url.removeprefix('https://')} fails: self-signed certificate" in caplog.text
    assert "MLFLOW_TRACKING_SERVER_CERT_PATH" in caplog.text
    monkeypatch.setenv("MLFLOW_TRACKING_SERVER_CERT_PATH", str(certificate))
    require_answer(url)


PLAIN = """
import sys
from lightning.pytorch.cli import LightningCLI
from adaloss_lightning.tracking import BufferedMLFlowLogger
from tests.tracking.training import Line

sys.argv[1:] = ["fit", "--trainer.logger=adaloss_lightning.tracking.BufferedMLFlowLogger",
    f"--trainer.logger.tracking_uri={sys.argv[1]}", "--trainer.logger.experiment_name=plain", "--trainer.max_epochs=1",
    "--trainer.logger.finalize_timeout=900",
    "--trainer.accelerator=cpu", "--trainer.enable_progress_bar=false"]
LightningCLI(Line)
"""


def test_a_password_in_the_address_of_any_lightningcli_is_kept_nowhere(
    folder: Path, auth_server: TrackingServer
) -> None:
    uri = auth_server.url.replace("//", f"//{USER}:{PASSWORD}@")
    done = subprocess.run([sys.executable, "-c", PLAIN, uri], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert PASSWORD not in done.stdout + done.stderr
    client = MlflowClient(uri)
    (run,) = runs_of(client, "plain")
    assert auth_server.url in Path(client.download_artifacts(run.info.run_id, "config.yaml")).read_text()
    assert files_with(PASSWORD, folder, auth_server.log.parent) == []


def test_a_training_without_the_password_goes_on_and_sync_delivers_with_it(
    folder: Path,
    auth_server: TrackingServer,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    """The address has a wrong one, which is no more written down than a right one."""
    logger = BufferedMLFlowLogger(
        "late", tracking_uri=auth_server.url.replace("//", "//admin:wrong-horse@"), finalize_timeout=2
    )
    trainer(logger).fit(Line())
    end_of_process()
    assert files_with("wrong-horse", folder) == []
    assert main(["sync"]) == 1
    assert "never written down" in capfd.readouterr().out
    monkeypatch.setenv("MLFLOW_TRACKING_URI", auth_server.url.replace("//", f"//{USER}:{PASSWORD}@"))
    assert main(["sync"]) == 0
    client = MlflowClient()
    (run,) = runs_of(client, "late")
    assert len(client.get_metric_history(run.info.run_id, "train/loss")) == 4
    printed = capfd.readouterr()
    for secret in (PASSWORD, "wrong-horse"):
        assert secret not in printed.out + printed.err + caplog.text
        assert files_with(secret, folder) == []
