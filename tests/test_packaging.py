"""What pip is told agrees with what was tested, and what is released holds all that it should, and runs."""

import os
import re
import shutil
import site
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from email.parser import Parser
from pathlib import Path

import pytest
from test_docs import README, blocks

import trl_real


ROOT = Path(__file__).parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
REPOSITORY = PROJECT["urls"]["Repository"]
# What lies in a checkout that has been worked in, and has no place in a release.
JUNK = (".*", "__pycache__", "*.egg-info", "build", "dist", "outputs", "site")


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


def files_of(folder):
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


def run(*command, cwd):
    """Run a command that finds no package by `PYTHONPATH`, and return what it prints."""
    env = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"} | {"NO_COLOR": "1"}
    result = subprocess.run(list(map(str, command)), capture_output=True, text=True, timeout=300, cwd=cwd, env=env)
    assert result.returncode == 0, result.stdout[-2000:] + result.stderr[-2000:]
    return result.stdout


@pytest.fixture(scope="module")
def sources(tmp_path_factory):
    """The checkout without junk, so that building leaves no traces in it."""
    return shutil.copytree(ROOT, tmp_path_factory.mktemp("sources") / "main", ignore=shutil.ignore_patterns(*JUNK))


@pytest.fixture(scope="module")
def released(sources, tmp_path_factory):
    """The sdist, and the wheel that is built from it."""
    checkout, dist = (tmp_path_factory.mktemp("released") / name for name in ("main", "dist"))
    shutil.copytree(sources, checkout)
    for name in ("tests/__pycache__/conftest.cpython-311.pyc", "outputs/model.safetensors", ".venv/pyvenv.cfg"):
        (checkout / name).parent.mkdir(exist_ok=True)
        (checkout / name).write_text("junk")
    run(sys.executable, "-m", "build", "--no-isolation", "--outdir", dist, cwd=checkout)
    (sdist,), (wheel,) = dist.glob("*.tar.gz"), dist.glob("*.whl")
    return sdist, wheel


def test_changelog_begins_with_this_version():
    headings = re.findall(r"^## \[(.+?)\](?: - (\d{4}-\d\d-\d\d))?$", (ROOT / "CHANGELOG.md").read_text(), re.M)
    released = [(version, date) for version, date in headings if version != "Unreleased"]
    assert released[0][0] == trl_real.__version__
    assert all(date for _, date in released)


def test_sdist_has_all_of_the_sources_and_nothing_else(released, sources):
    sdist, _ = released
    assert sdist.name == f"trl_real-{trl_real.__version__}.tar.gz"
    with tarfile.open(sdist) as archive:
        names = {member.name.split("/", 1)[1] for member in archive if member.isfile()}
    made = {name for name in names if name.startswith("trl_real.egg-info/")} | {"PKG-INFO", "setup.cfg"}
    assert names - made == files_of(sources)


def test_wheel_has_all_of_the_package_and_nothing_else(released, sources):
    _, wheel = released
    assert wheel.name == f"trl_real-{trl_real.__version__}-py3-none-any.whl"
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
        metadata = Parser().parsestr(archive.read(next(name for name in names if name.endswith("/METADATA"))).decode())
    about = {name for name in names if ".dist-info/" in name}
    assert names - about == {f"trl_real/{name}" for name in files_of(sources / "trl_real")}
    assert any(name.endswith("/licenses/LICENSE") for name in about)
    assert metadata["Description-Content-Type"] == "text/markdown"
    assert metadata["Project-URL"] == f"Repository, {REPOSITORY}"
    # Its links are absolute on PyPI, and lead to the same files of the repository.
    description = re.sub(rf"\({REPOSITORY}/(?:blob|raw)/main/", "(", metadata.get_payload())
    assert description.strip() == README.read_text(encoding="utf-8").strip()
    images = re.findall(r"!\[[^\]]*\]\((.*?)\)", metadata.get_payload())
    assert images
    assert all(image.startswith(f"{REPOSITORY}/raw/main/") for image in images)
    assert not re.search(r"\]\((?!https://|#)", metadata.get_payload())


def test_metadata_is_what_the_index_wants(released):
    pytest.importorskip("twine")
    run(sys.executable, "-m", "twine", "check", "--strict", *released, cwd=released[0].parent)


@pytest.mark.slow
def test_installed_wheel_does_what_the_readme_begins_with(released, tmp_path):
    """In a fresh environment that has the wheel, and from that of the tests what the wheel depends on."""
    _, wheel = released
    run(sys.executable, "-m", "venv", "--without-pip", "venv", cwd=tmp_path)
    python = tmp_path / "venv" / "bin" / "python"
    run(sys.executable, "-m", "pip", "--python", python, "install", "--no-deps", "--no-index", wheel, cwd=tmp_path)
    own = Path(run(python, "-I", "-c", "import site; print(site.getsitepackages()[0])", cwd=tmp_path).strip())
    # Such a line adds a folder, after the environment's own, and does not read the `.pth` files in it, which is how an
    # editable install of the checkout would come in.
    (own / "dependencies.pth").write_text("\n".join(site.getsitepackages()) + "\n")

    # Isolated: the current folder and the user's are not searched either.
    where = run(python, "-I", "-c", "import trl_real; print(trl_real.__file__)", cwd=tmp_path).strip()
    assert Path(where).is_relative_to(own)
    version = run(tmp_path / "venv" / "bin" / "trl-real", "--version", cwd=tmp_path)
    assert version == f"trl-real {trl_real.__version__}\n"

    first = next(block for block in blocks(README) if block.info == "python")
    (tmp_path / "ten_lines.py").write_text(first.text, encoding="utf-8")
    output = run(python, "-I", "ten_lines.py", cwd=tmp_path)
    assert re.sub(r"[\d.]+ s\b", "? s", output) == re.sub(r"[\d.]+ s\b", "? s", first.printed)  # but for the time
