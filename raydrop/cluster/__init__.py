"""Everything that touches Ray.

Ray reads these settings when it is imported or started, so they are set here, before any module of
this package imports it; what the environment already says stays.
"""

import os
import sys
from logging import getLogger

# Workers run in this very environment; under `uv run` Ray would otherwise build one for each.
os.environ.setdefault("RAY_ENABLE_UV_RUN_RUNTIME_ENV", "0")
if os.environ["RAY_ENABLE_UV_RUN_RUNTIME_ENV"] == "0" and "ray" in sys.modules:
    # A sweep script has imported Ray first, which has read this setting already.
    sys.modules["ray._private.ray_constants"].RAY_ENABLE_UV_RUN_RUNTIME_ENV = False  # type: ignore[attr-defined]
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # no telemetry
os.environ.setdefault("RAY_CHDIR_TO_TRIAL_DIR", "0")  # relative paths keep their meaning in trials
os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")  # keep GPUs visible as they were
os.environ.setdefault("RAY_AIR_NEW_OUTPUT", "0")  # its banners appear even at verbose=0
os.environ.setdefault("TUNE_DISABLE_AUTO_CALLBACK_LOGGERS", "1")  # the store is the record
os.environ.setdefault("TUNE_DISABLE_SIGINT_HANDLER", "1")  # Ctrl-C reaches the driver at once
# No hints for notebooks to install something; not by a name, which would hide the module here.
getLogger("ray.widgets.util").setLevel("WARNING")
