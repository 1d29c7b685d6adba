r"""Reading a job file must stay quick: the configs import no numerics."""

import subprocess
import sys


def test_configs_import_nothing_heavy():
    code = (
        "import sys, hpcinv.assimilation.baselines_config, hpcinv.observations.config;"
        "heavy = {'torch', 'numpy', 'xarray', 'matplotlib', 'scipy', 'pandas', 'netCDF4'};"
        "print(sorted(heavy & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
