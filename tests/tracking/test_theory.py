"""`adaloss theory` on files."""

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from adaloss_lightning.tracking.console.app import main

X = np.array([[1.0, 0.0], [0.6, 0.8], [0.0, 1.0]])


def write(path: Path, values: Any) -> str:
    if path.suffix == ".npy":
        np.save(path, values)
    elif path.suffix == ".pt":
        torch.save(torch.tensor(values), path)
    else:
        np.savetxt(path, values, delimiter=",")
    return str(path)


def printed(capsys: pytest.CaptureFixture[str]) -> dict[str, float]:
    lines = capsys.readouterr().out.splitlines()
    return {name.strip(): float(value) for name, _, value in (line.rpartition(" ") for line in lines)}


@pytest.mark.parametrize("suffix", [".npy", ".pt", ".csv"])
def test_gram_prints_the_extremes_of_h_infinity(
    suffix: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    cosines = np.clip(X @ X.T, -1, 1)
    values = np.linalg.eigvalsh(cosines * (np.pi - np.arccos(cosines)) / (2 * np.pi))
    assert main(["theory", "gram", write(tmp_path / f"x{suffix}", 3 * X), "--normalize", "--lr", "4"]) == 0
    found = printed(capsys)
    assert found["lambda_0"] == pytest.approx(values[0], rel=1e-9)
    assert found["norm"] == pytest.approx(values[-1], rel=1e-9)
    assert found["critical b"] == pytest.approx(4 * (values[0] + values[-1]) / 2, rel=1e-9)


def test_critical_prints_half_of_eta_times_lambda_1(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lambda1 = np.linalg.eigvalsh(X.T @ X)[-1]
    assert main(["theory", "critical", write(tmp_path / "x.csv", X), "--lr", "3"]) == 0
    assert printed(capsys) == {"lambda_1": pytest.approx(lambda1), "critical b": pytest.approx(1.5 * lambda1)}


def test_sharpness_prints_the_rate_that_a_hessian_allows(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["theory", "sharpness", write(tmp_path / "h.npy", [[2.0, 1.0], [1.0, 2.0]])]) == 0
    assert printed(capsys) == {"lambda_max": 3, "critical rate": pytest.approx(2 / 3), "critical b": 1.5}
    assert main(["theory", "sharpness", write(tmp_path / "h.npy", [[-2.0]])]) == 0
    assert printed(capsys) == {"lambda_max": -2}


def test_a_table_may_have_a_line_of_names(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "x.csv"
    path.write_text("first,second\n3,0\n0,4\n")
    assert main(["theory", "critical", str(path)]) == 0
    assert printed(capsys)["lambda_1"] == pytest.approx(16)


@pytest.mark.parametrize(("name", "content", "message"), [
    ("x.npy", None, "No such file or directory"),
    ("x.txt", b"1,2\n", "Must end in .npy, .pt or .csv"),
    ("x.npy", b"no array", "Cannot read .*x.npy as a .npy file"),
    ("x.pt", b"no tensor", "Cannot read .*x.pt as a .pt file"),
    ("x.csv", b"1,2\n3,four\n", "Cannot read .*x.csv as a .csv file: .*four"),
    ("x.csv", b"", "Cannot read .*x.csv as a .csv file"),
    ("x.csv", b"1,0\nnan,1\n", r"Invalid x\[1, 0\]=nan"),
    ("x.csv", b"1,0\n3,4\n", r"Invalid norm 5 of x\[1\]"),
    ("x.csv", b"1,0\n1,0\n", r"Invalid x\[1\] and x\[0\].*parallel"),
])  # fmt: skip
def test_bad_files_are_one_line_and_code_two(
    name: str, content: bytes | None, message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    if content is not None:
        (tmp_path / name).write_bytes(content)
    assert main(["theory", "gram", str(tmp_path / name)]) == 2
    error = capsys.readouterr().err
    assert len(error.splitlines()) == 1
    assert re.search(message, error)


def test_what_is_no_matrix_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    torch.save({"weight": torch.ones(2)}, tmp_path / "x.pt")
    assert main(["theory", "gram", str(tmp_path / "x.pt")]) == 2
    assert "dict. Must be a matrix of numbers" in capsys.readouterr().err
    assert main(["theory", "sharpness", write(tmp_path / "h.npy", [[0.0, 1.0], [0.0, 0.0]])]) == 2
    assert "Must be symmetric" in capsys.readouterr().err
    assert main(["theory", "critical", write(tmp_path / "x.npy", X), "--lr", "-1"]) == 2
    assert "Invalid --lr=-1. Must be > 0" in capsys.readouterr().err
