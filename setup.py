"""What ships in the wheel; everything else about the package is in pyproject.toml.

jobs/ and slurm/ stand at the top of the repository, where a person looks for them, and travel as
``hpcinv/jobs`` and ``hpcinv/slurm``. ``hpcinv.shipped.folder`` finds them in both places.
"""

from pathlib import Path

from setuptools import find_packages, setup

carried = [name for name in ("jobs", "slurm") if Path(name).is_dir()]

setup(
    packages=[*find_packages(include=["hpcinv", "hpcinv.*"]), *(f"hpcinv.{n}" for n in carried)],
    package_dir={f"hpcinv.{name}": name for name in carried},
    package_data={f"hpcinv.{name}": ["**/*"] for name in carried}
    | {"hpcinv.evaluation": ["*.json", "*.jinja"], "hpcinv.launch": ["*.yaml"]},
    include_package_data=False,
)
