"""What is installed says its version."""

import subprocess
import sys
from importlib.metadata import version

import alignment


def test_the_version_is_that_of_the_installed_package():
    assert alignment.__version__ == version("repalign") and "__version__" in dir(alignment)
    done = subprocess.run(
        [sys.executable, "-m", "alignment.run", "--version"], capture_output=True, text=True, check=True
    )
    assert done.stdout == f"repalign {version('repalign')}\n"
