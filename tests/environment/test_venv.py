"""Making the environment, with packages that the tests write, so that no network is needed."""

from __future__ import annotations

import shutil
import zipfile
from pathlib import Path

import pytest

from sdforge.environment import venv
from sdforge.environment.steps import InstallError, Step


def write_wheel(folder: Path, name: str, text: str = "x = 1\n") -> Path:
    """Write the smallest wheel that pip takes."""
    folder.mkdir(exist_ok=True)
    path = folder / f"{name}-1.0-py3-none-any.whl"
    info = f"{name}-1.0.dist-info"
    with zipfile.ZipFile(path, "w") as wheel:
        wheel.writestr(f"{name}.py", text)
        wheel.writestr(f"{info}/METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
        wheel.writestr(
            f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        )
        wheel.writestr(f"{info}/RECORD", f"{name}.py,,{len(text)}\n{info}/METADATA,,\n")
    return path


@pytest.fixture(scope="module")
def made_anew(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[str]]:
    """An environment with pip alone, made once because that takes seconds, and what was said.

    In its place was one whose Python is gone, as after an update of the system.
    """
    root = tmp_path_factory.mktemp("environment")
    (root / ".venv").mkdir()
    (root / ".venv" / "pyvenv.cfg").write_text("version = 3.11.0\n")
    (root / ".venv" / "left over").touch()
    said: list[str] = []
    venv.prepare(root, [Step("nothing")], said.append)
    return root, said


@pytest.fixture
def root(made_anew: tuple[Path, list[str]], tmp_path: Path) -> Path:
    shutil.copytree(made_anew[0] / ".venv", tmp_path / ".venv", symlinks=True)
    return tmp_path


def step_for(wheel: Path, name: str = "lock") -> Step:
    return Step(name, requirements=f"--no-index\n{wheel}\n")


def installed(root: Path, name: str) -> bool:
    return any((folder / f"{name}.py").exists() for folder in venv.site_packages(root / ".venv"))


def test_a_step_is_done_once(root: Path) -> None:
    said: list[str] = []
    step = step_for(write_wheel(root / "wheels", "sdforge_probe"))
    venv.prepare(root, [step], said.append)
    assert installed(root, "sdforge_probe")
    assert venv.is_done(root, step)
    said.clear()
    venv.prepare(root, [step], said.append)
    assert said == []


def test_a_changed_lock_file_is_installed_into_the_same_environment(root: Path) -> None:
    venv.prepare(root, [step_for(write_wheel(root / "wheels", "sdforge_probe"))], print)
    second = step_for(write_wheel(root / "wheels", "sdforge_other"))
    assert not venv.is_done(root, second)
    venv.prepare(root, [second], print)
    assert installed(root, "sdforge_probe")
    assert installed(root, "sdforge_other")


def test_an_interrupted_installation_is_taken_up_again(root: Path) -> None:
    """pip, killed while unpacking, leaves a package that it would take for installed."""
    step = step_for(write_wheel(root / "wheels", "sdforge_probe"))
    venv.prepare(root, [step], print)
    (root / ".venv" / ".sdforge-lock").unlink()
    module = next(venv.site_packages(root / ".venv")[0].glob("sdforge_probe.py"))
    module.write_text("x")
    venv.prepare(root, [step], print)
    assert module.read_text() == "x = 1\n"


def test_a_failed_step_is_not_taken_for_done_and_says_why(root: Path) -> None:
    step = Step("lock", requirements="--no-index\nsdforge-no-such-package==1\n")
    with pytest.raises(InstallError, match="No matching distribution found for sdforge-no-such"):
        venv.prepare(root, [step], print)
    assert not venv.is_done(root, step)
    assert "sdforge-no-such" in (root / ".venv" / "install.log").read_text()


def test_an_optional_step_may_fail(root: Path) -> None:
    said: list[str] = []
    step = Step("xformers", ("install", "--no-index", "sdforge-no-such-package"), required=False)
    venv.prepare(root, [step], said.append)
    assert "Going on without it." in said[-1]


def test_an_environment_whose_python_is_gone_is_made_anew(
    made_anew: tuple[Path, list[str]],
) -> None:
    root, said = made_anew
    assert said[0].startswith("Making a Python environment")
    assert venv.venv_python(root).exists()
    assert not (root / ".venv" / "left over").exists()


def test_a_folder_of_that_name_that_is_no_environment_is_not_emptied(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(venv, "MINIMUM_FREE_BYTES", 10**18)
    (tmp_path / ".venv").mkdir()
    (tmp_path / ".venv" / "precious").touch()
    with pytest.raises(InstallError):
        venv.prepare(tmp_path, [Step("nothing")], print)
    assert (tmp_path / ".venv" / "precious").exists()


def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / ".venv").write_text("a file where the folder should be")
    with pytest.raises(InstallError, match=r"\.venv cannot be written"):
        venv.prepare(tmp_path, [Step("lock", requirements="x")], print)


def test_too_little_disk_space_is_said_before_anything_is_fetched(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(venv, "MINIMUM_FREE_BYTES", 10**18)
    with pytest.raises(InstallError, match="GB of free disk space; the installation needs"):
        venv.prepare(tmp_path, [Step("lock", requirements="x")], print)
