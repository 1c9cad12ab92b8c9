"""docs/dependencies.md has a row for each dependency, and for each package that is imported."""

import ast
import re
import sys
import tomllib
from importlib.metadata import packages_distributions

import pytest

from tests.packaging.building import ROOT, tracked

BROUGHT = "brought by others"
DISTRIBUTIONS = packages_distributions() | {"mlflow": ["mlflow"]}  # which is three, two of them parts of the first
OWN = {"adaloss_lightning", "recipes", "benchmarks", "examples", "tests"}


def normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def rows() -> dict[str, dict[str, str]]:
    """By section, for each package the file that imports it, as far as the page names one."""
    tables: dict[str, dict[str, str]] = {}
    for line in (ROOT / "docs" / "dependencies.md").read_text().splitlines():
        if line.startswith("## "):
            section = tables[line.removeprefix("## ")] = {}
        elif line.startswith("| ") and not line.startswith("| package "):
            cells = [cell.strip() for cell in line.strip("|").split("|")]
            section[normal(cells[0])] = cells[2].strip("`")
    return tables


def declared() -> dict[str, set[str]]:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    lists = {"core": project["dependencies"], **project["optional-dependencies"]}
    return {
        extra: {normal(re.split(r"[^\w.-]", line)[0]) for line in lines} - {"adaloss-lightning"}
        for extra, lines in lists.items()
    }


def imported(file: str) -> set[str]:
    """Distributions that a file imports, anywhere in it."""
    nodes = list(ast.walk(ast.parse((ROOT / file).read_text())))
    names = {alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names}
    names |= {node.module for node in nodes if isinstance(node, ast.ImportFrom) and node.module and not node.level}
    tops = {name.partition(".")[0] for name in names} - sys.stdlib_module_names - OWN
    return {normal(name) for top in tops for name in DISTRIBUTIONS.get(top, [top])}


def test_each_dependency_has_a_row_and_each_row_a_dependency() -> None:
    tables = rows()
    tables.pop(BROUGHT)
    assert {section: set(table) for section, table in tables.items()} == declared()


@pytest.mark.parametrize(("package", "file"), [one for table in rows().values() for one in table.items() if one[1]])
def test_the_file_of_a_row_imports_the_package(package: str, file: str) -> None:
    assert package in imported(file)


def test_what_the_packages_import_has_a_row() -> None:
    known = {name for section, table in rows().items() if section != "dev" for name in table}
    files = [name for name in tracked("adaloss_lightning", "recipes") if name.endswith(".py")]
    assert {file: unknown for file in files if (unknown := imported(file) - known)} == {}
