"""What pip is told agrees with what was tested."""

import re
import tomllib
from pathlib import Path


ROOT = Path(__file__).parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def requirements(text):
    return dict(re.findall(r"^([\w-]+)==(\S+)$", text, re.MULTILINE))


def test_each_lower_bound_is_a_version_that_the_tests_run_on():
    extras = PROJECT["optional-dependencies"]
    declared = [*PROJECT["dependencies"], *(line for name in extras if name != "quality" for line in extras[name])]
    bounds = dict(re.match(r"([\w-]+)(?:\[\w+\])?>=([^,\s]+)", line).groups() for line in declared if ">=" in line)
    assert bounds == requirements((ROOT / "constraints-lowest.txt").read_text())


def test_constraints_pin_every_direct_dependency():
    pinned = {name.lower().replace("_", "-") for name in requirements((ROOT / "constraints.txt").read_text())}
    for line in [
        *PROJECT["dependencies"],
        *(line for extra in PROJECT["optional-dependencies"].values() for line in extra),
    ]:
        name = re.match(r"[\w-]+", line).group().lower().replace("_", "-")
        assert name in pinned or name == "trl-real", line
