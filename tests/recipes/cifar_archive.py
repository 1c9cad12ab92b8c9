"""A tiny CIFAR-100 archive in the official format, and a server that breaks off while it hands one out."""

import hashlib
import pickle
import tarfile
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from recipes.vit_cifar100.data import CIFAR100

TRAIN_PER_CLASS, TEST_PER_CLASS = 10, 1
BLUE = 200
CORNER = 255  # the green of the upper right pixel, so that a turned image shows


def labels(per_class: int) -> np.ndarray:
    """Class of each image: 0, 1, ..., 99, 0, 1, ..."""
    return np.tile(np.arange(100), per_class)


def image(index: int, label: int) -> np.ndarray:
    """What image `index` looks like, `[32, 32, 3]`: red tells its class, green its place."""
    pixels = np.empty((32, 32, 3), np.uint8)
    pixels[:] = (label, index % 250, BLUE)
    pixels[0, 31, 1] = CORNER
    return pixels


def _part(per_class: int, name: str) -> dict[str, Any]:
    classes = labels(per_class)
    # One row an image: all its red bytes, row by row, then green, then blue.
    data = np.stack([image(index, label).transpose(2, 0, 1).ravel() for index, label in enumerate(classes)])
    return {
        "filenames": [f"{name}_{index}.png" for index in range(len(classes))],
        "batch_label": f"{name} batch 1 of 1",
        "fine_labels": classes.tolist(),
        "coarse_labels": (classes // 5).tolist(),
        "data": data,
    }


def official_files() -> dict[str, bytes]:
    """Content of the three files of the archive."""
    names = {"fine_label_names": [f"class {n}" for n in range(100)], "coarse_label_names": [str(n) for n in range(20)]}
    parts = {"train": _part(TRAIN_PER_CLASS, "train"), "test": _part(TEST_PER_CLASS, "test"), "meta": names}
    return {name: pickle.dumps(part) for name, part in parts.items()}


def install(monkeypatch: pytest.MonkeyPatch, folder: Path, url: str = "http://127.0.0.1:9/none") -> Path:
    """Writes the archive into `folder` and makes the recipe expect its md5 sums."""
    files = official_files()
    archive = folder / CIFAR100.filename
    folder.mkdir(parents=True, exist_ok=True)
    with tarfile.open(archive, "w:gz", compresslevel=1) as tar:
        for name, content in files.items():
            entry = tarfile.TarInfo(f"cifar-100-python/{name}")
            entry.size = len(content)
            tar.addfile(entry, BytesIO(content))
    sums = {name: hashlib.md5(content).hexdigest() for name, content in files.items()}
    monkeypatch.setattr(CIFAR100, "url", url)
    monkeypatch.setattr(CIFAR100, "tgz_md5", hashlib.md5(archive.read_bytes()).hexdigest())
    monkeypatch.setattr(CIFAR100, "train_list", [["train", sums["train"]]])
    monkeypatch.setattr(CIFAR100, "test_list", [["test", sums["test"]]])
    monkeypatch.setattr(CIFAR100, "meta", {**CIFAR100.meta, "md5": sums["meta"]})
    return archive


@contextmanager
def serve(content: bytes, cut: Callable[[int], int | None], ranges: bool = True) -> Iterator[tuple[str, list[str]]]:
    """Serves `content` on this machine; gives its URL and the list of the Range headers that arrive.

    Args:
        content: The file.
        cut: Bytes of its body after which the connection of the n-th request breaks, None for never.
        ranges: Whether Range headers are honoured.
    """
    asked: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self.headers.get("Range", ""))
            start = int(asked[-1].removeprefix("bytes=").rstrip("-") or 0) if ranges else 0
            if start >= len(content):
                self.send_error(416)
                return
            self.send_response(206 if start else 200)
            self.send_header("Content-Length", str(len(content) - start))
            self.end_headers()
            limit = cut(len(asked))
            self.wfile.write(content[start : None if limit is None else start + limit])

        def log_message(self, *args: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/file.tar.gz", asked
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
