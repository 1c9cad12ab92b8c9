"""The sdist and the wheel: what is in them, and what they say of themselves."""

import re
from email import message_from_bytes
from email.message import Message
from pathlib import Path
from zipfile import ZipFile

import pytest

from adaloss_lightning import __version__
from tests.packaging.building import build, copy_tracked, tracked, unpack
from tests.packaging.smoke import SMOKES

PACKAGES = ("adaloss_lightning", "recipes")


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return copy_tracked(tmp_path_factory.mktemp("source"))


@pytest.fixture(scope="module")
def wheel(source: Path, tmp_path_factory: pytest.TempPathFactory) -> ZipFile:
    return ZipFile(build("wheel", source, tmp_path_factory.mktemp("wheel")))


@pytest.fixture(scope="module")
def unpacked(source: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The only folder of the sdist."""
    return unpack(build("sdist", source, tmp_path_factory.mktemp("sdist")), tmp_path_factory.mktemp("unpacked"))


@pytest.fixture(scope="module")
def metadata(wheel: ZipFile) -> Message:
    return message_from_bytes(contents(wheel)["METADATA"])


def contents(wheel: ZipFile) -> dict[str, bytes]:
    """Files of a wheel; those of its dist-info folder by their names there."""
    return {re.sub(r"^[^/]*\.dist-info/", "", name): wheel.read(name) for name in wheel.namelist()}


def test_wheel_holds_every_tracked_file_of_the_packages_and_no_other(wheel: ZipFile) -> None:
    held = {name for name in wheel.namelist() if ".dist-info/" not in name}
    assert held == set(tracked(*PACKAGES))
    # git might track nothing: these are what packages lose when package-data forgets them.
    assert held >= {
        "adaloss_lightning/py.typed",
        "adaloss_lightning/tracking/reports/page.html",
        "recipes/digits/adaloss.yaml",
        "recipes/leaderboard/methods/adam_constant.yaml",
        "recipes/leaderboard/page.html",
    }


def test_sdist_holds_what_it_is_built_from_and_no_tests(unpacked: Path) -> None:
    held = {path.relative_to(unpacked).as_posix() for path in unpacked.rglob("*") if path.is_file()}
    generated = {name for name in held if name.startswith("adaloss_lightning.egg-info/")} | {"PKG-INFO", "setup.cfg"}
    own = {"LICENSE", "MANIFEST.in", "README.md", "CHANGELOG.md", "CITATION.cff", "pyproject.toml"}
    assert held - generated == own | set(tracked(*PACKAGES))


def test_sdist_builds_the_same_wheel(unpacked: Path, wheel: ZipFile, tmp_path: Path) -> None:
    assert contents(ZipFile(build("wheel", unpacked, tmp_path / "again"))) == contents(wheel)


def test_metadata_name_the_project(metadata: Message) -> None:
    assert (metadata["Name"], metadata["Version"]) == ("adaloss-lightning", __version__)
    assert (metadata["License-Expression"], metadata["License-File"]) == ("Apache-2.0", "LICENSE")
    assert metadata["Requires-Python"] == ">=3.11"
    assert metadata.get_all("Project-URL") == ["Paper, https://arxiv.org/abs/2109.08282"]
    assert metadata["Description-Content-Type"] == "text/markdown"


def test_classifiers_name_what_is_tested(metadata: Message) -> None:
    classifiers = metadata.get_all("Classifier") or []
    pythons = [name.removeprefix("Programming Language :: Python :: ") for name in classifiers if ":: 3." in name]
    assert pythons == ["3.11", "3.12", "3.13"]
    systems = [name.partition(" :: ")[2] for name in classifiers if name.startswith("Operating System")]
    assert systems == ["POSIX :: Linux"]
    assert not any(name.startswith("License") for name in classifiers)  # PyPI refuses them beside License-Expression


@pytest.mark.parametrize(
    ("extra", "some"),
    [
        ("", {"torch", "lightning"}),
        ("tracking", {"mlflow", "jsonargparse", "filelock"}),
        ("recipes", {"adaloss-lightning", "scikit-learn", "timm", "torchtext"}),
        ("ray", {"adaloss-lightning", "ray"}),
        ("bench", {"prodigyopt", "schedulefree"}),
        ("docs", {"mkdocs-material", "mkdocstrings"}),
        ("dev", {"adaloss-lightning", "pytest", "ruff", "mypy"}),
    ],
)
def test_extra_requires_its_packages(metadata: Message, extra: str, some: set[str]) -> None:
    required = set()
    for line in metadata.get_all("Requires-Dist") or []:
        requirement, _, marker = line.partition(";")
        if marker.strip() == (f'extra == "{extra}"' if extra else ""):
            required.add(re.match(r"[\w.-]+", requirement)[0])  # type: ignore[index]
    assert required >= some
    assert extra or required == some  # the core is torch and lightning alone


def test_every_extra_has_commands_that_try_its_installation(metadata: Message) -> None:
    assert {"core", *(metadata.get_all("Provides-Extra") or [])} == set(SMOKES)


def test_wheel_brings_the_console_command(wheel: ZipFile) -> None:
    assert b"adaloss = adaloss_lightning.tracking.console.app:main" in contents(wheel)["entry_points.txt"]
