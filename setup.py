"""Which packages there are, beside setup.cfg, which cannot say that configs/ is selavi/recipes/ in a wheel."""

from setuptools import find_packages, setup

setup(
    packages=[*find_packages(include=["selavi", "selavi.*", "datamodules", "datamodules.*"]), "selavi.recipes"],
    package_dir={"selavi.recipes": "configs"},
)
