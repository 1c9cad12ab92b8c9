"""Workflows, hooks and issue forms: they parse, and what they call is there."""

import re
import tomllib
from typing import Any

import pytest
import yaml

import adaloss_lightning
from tests.packaging.building import ROOT

WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))
FORMS = sorted((ROOT / ".github" / "ISSUE_TEMPLATE").glob("*.yml"))
TARGETS = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))


def steps(workflow: dict[Any, Any]) -> list[tuple[dict[str, Any], dict[str, Any]]]:
    """Each step, with its job."""
    return [(job, step) for job in workflow["jobs"].values() for step in job["steps"]]


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.name)
def test_workflow_calls_targets_that_exist_and_actions_of_a_major_version(path: Any) -> None:
    workflow = yaml.safe_load(path.read_text())
    assert {"name", True, "permissions", "jobs"} <= set(workflow)  # YAML reads `on` as true
    for job, step in steps(workflow):
        if "uses" in step:
            assert re.fullmatch(r"[\w-]+/[\w-]+@(v\d+|release/v\d+)", step["uses"])
            continue
        for target in re.findall(r"^make (\$\{\{ \S+ \}\}|\S+)", step["run"], re.MULTILINE):
            if target == "${{ matrix.target }}":
                assert {one["target"] for one in job["strategy"]["matrix"]["include"]} <= TARGETS
            else:
                assert target in TARGETS


def test_workflows_are_those_that_are_looked_at_here() -> None:
    assert [path.name for path in WORKFLOWS] == ["docs.yml", "release.yml", "test.yml"]
    assert {"docs", "lint", "test", "test-oldest", "test-python"} <= TARGETS


def test_every_python_of_the_classifiers_is_tested() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    promised = {name.rpartition(" ")[2] for name in project["classifiers"] if "Python :: 3." in name}
    jobs = yaml.safe_load((ROOT / ".github" / "workflows" / "test.yml").read_text())["jobs"]
    assert {one["python"] for one in jobs["core"]["strategy"]["matrix"]["include"]} == promised
    assert set(jobs["install"]["strategy"]["matrix"]["python"]) == promised


def test_only_the_job_that_publishes_may_ask_for_a_token() -> None:
    workflow = yaml.safe_load((ROOT / ".github" / "workflows" / "release.yml").read_text())
    publish = workflow["jobs"].pop("publish")
    assert (publish["environment"], publish["permissions"]) == ("pypi", {"id-token": "write"})
    assert workflow["permissions"] == {"contents": "read"}
    assert not any("permissions" in job for job in workflow["jobs"].values())


def test_the_tag_of_a_release_is_compared_with_the_version() -> None:
    workflow = yaml.safe_load((ROOT / ".github" / "workflows" / "release.yml").read_text())
    commands = "\n".join(step["run"] for _, step in steps(workflow) if "run" in step)
    pattern = re.search(r"sed -n 's/(.*)/\\1/p' (\S+)\)", commands)
    assert pattern is not None
    found = re.search(re.sub(r"\\([()])", r"\1", pattern[1]), (ROOT / pattern[2]).read_text(), re.MULTILINE)
    assert found is not None
    assert re.fullmatch(r"\d+\.\d+\.\d+", found[1])
    assert found[1] == adaloss_lightning.__version__


def test_hooks_run_the_tools_of_the_environment() -> None:
    (repository,) = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())["repos"]
    assert repository["repo"] == "local"  # so that their versions are those of constraints.txt
    entries = {hook["id"]: hook["entry"].split() for hook in repository["hooks"]}
    assert all(hook["language"] == "system" for hook in repository["hooks"])
    assert {entry[0].removeprefix(".venv/bin/") for entry in entries.values()} == {"ruff", "mypy", "python"}
    module = entries["support-matrix"][2]
    assert (ROOT / module.replace(".", "/")).with_suffix(".py").is_file()


@pytest.mark.parametrize("path", FORMS, ids=lambda path: path.stem)
def test_issue_form_has_what_github_requires(path: Any) -> None:
    form = yaml.safe_load(path.read_text())
    assert {"name", "description", "body"} <= set(form)
    labels = [element["attributes"]["label"] for element in form["body"]]
    assert len(labels) == len(set(labels)) > 0
    assert path.stem != "bug_report" or "Output of `adaloss doctor`" in labels
