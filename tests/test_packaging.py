"""What an installation gets: read from setup.cfg as a build does, without building."""

import subprocess
import sys
from configparser import ConfigParser
from importlib import import_module
from pathlib import Path

from selavi.commands.main import NAMES
from selavi.commands.recipes import recipe_names
from selavi.wording import tool_name

ROOT = Path(__file__).resolve().parents[1]
SETTINGS = ConfigParser()
SETTINGS.read(ROOT / "setup.cfg", encoding="utf-8")
PACKAGE_DATA = SETTINGS["options.package_data"]


PACKAGES = SETTINGS["options"]["packages"].split()


def test_no_common_name_is_taken_in_site_packages() -> None:
    assert {name.split(".")[0] for name in PACKAGES} == {"selavi", "datamodules"}


def test_every_module_and_template_is_in_it() -> None:
    files = [file for top in ("selavi", "datamodules") for file in (ROOT / top).rglob("*.py")]
    folders = {".".join(file.parent.relative_to(ROOT).parts) for file in files}
    assert sorted(PACKAGES) == sorted(folders | {"selavi.recipes"}), "setup.cfg lists every folder of modules"
    assert all((ROOT / Path(*name.split(".")) / "__init__.py").exists() for name in folders)
    for templates in (ROOT / "selavi").rglob("templates"):
        assert PACKAGE_DATA[".".join(templates.relative_to(ROOT).parent.parts)] == "templates/*"


def test_the_recipes_are_in_it() -> None:
    assert SETTINGS["options"]["package_dir"].split() == ["selavi.recipes", "=", "configs"]
    assert PACKAGE_DATA["selavi.recipes"] == "*.yaml"
    assert {path.suffix for path in (ROOT / "configs").iterdir() if path.is_file()} == {".yaml"}
    assert "demo" in recipe_names()


def test_every_command_has_its_script() -> None:
    lines = SETTINGS["options.entry_points"]["console_scripts"].split("\n")
    scripts = dict(line.replace(" ", "").split("=") for line in lines if line)
    expected = {f"selavi-{tool_name(name).replace('_', '-')}" for name in NAMES if name not in ("config", "label")}
    assert set(scripts) == expected | {"selavi"}
    for target in scripts.values():
        module, function = target.split(":")
        assert callable(getattr(import_module(module), function))


def test_an_installation_without_the_checkout_finds_its_recipes(tmp_path: Path) -> None:
    """As a wheel lays it out, beside packages of other projects that have the names of our folders."""
    (tmp_path / "site" / "selavi").mkdir(parents=True)
    for entry in (ROOT / "selavi").iterdir():
        (tmp_path / "site" / "selavi" / entry.name).symlink_to(entry)
    (tmp_path / "site" / "selavi" / "recipes").symlink_to(ROOT / "configs")
    (tmp_path / "site" / "datamodules").symlink_to(ROOT / "datamodules")
    for name in ("tools", "configs"):
        (tmp_path / "other" / name).mkdir(parents=True)
        (tmp_path / "other" / name / "__init__.py").write_text("raise ImportError('of another project')\n")
    script = "from selavi.commands.main import main\nraise SystemExit(main(['train', 'heads.num_clusters=1']))"
    environment = {"PYTHONPATH": f"{tmp_path / 'other'}:{tmp_path / 'site'}"}
    command = [sys.executable, "-c", script]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 2
    assert done.stderr.startswith("error: heads.num_clusters must be at least 2")
