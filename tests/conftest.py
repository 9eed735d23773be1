"""Eight virtual CPU devices for every test, so that meshes are tested on any machine."""

import os
from importlib.metadata import version
from pathlib import Path

FLAGS = ["--xla_force_host_platform_device_count=8"]
OLDER = version("jaxlib").startswith("0.10.")  # of others it may be no flag, which ends the process
if OLDER:
    FLAGS.append("--xla_cpu_use_fusion_emitters=false")  # a quarter less of the suite's time
os.environ["XLA_FLAGS"] = " ".join([os.environ.get("XLA_FLAGS", ""), *FLAGS])
os.environ.setdefault("JAX_PLATFORMS", "cpu")
# Most of the suite's time is compiling: programs are compiled quickly rather than well, and shared
# by workers and subprocesses.
CACHE = Path(__file__).resolve().parents[1] / ".pytest_cache" / "xla"
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(CACHE))
os.environ.setdefault("JAX_DISABLE_MOST_OPTIMIZATIONS", "1")
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.3")

import jax  # noqa: E402
import pytest  # noqa: E402
from jax.experimental.compilation_cache import compilation_cache  # noqa: E402

MAPS = Path("/proc/self/maps")


@pytest.fixture(scope="module", autouse=True)
def few_programs():
    """Lets programs go: of the memory maps that they hold Linux gives a process 65,530, and what
    asks for one more is aborted."""
    yield
    if MAPS.exists() and MAPS.read_bytes().count(b"\n") > 20_000:
        jax.clear_caches()


@pytest.fixture(scope="module", autouse=True)
def programs_over_devices_are_not_kept(request):
    """What the older emitters made for several devices must not be loaded again: ring attention
    then computes something else in half of the runs, or the process is aborted."""
    over_devices = OLDER and "MeshConfig" in Path(request.module.__file__).read_text()
    if over_devices:
        jax.config.update("jax_enable_compilation_cache", False)
        compilation_cache.reset_cache()  # it is asked once whether there is one
    yield
    if over_devices:
        jax.config.update("jax_enable_compilation_cache", True)
        compilation_cache.reset_cache()


@pytest.fixture(scope="module")
def optimized():
    """Programs as users get them: where the last digits, or what a compiler makes, matter."""
    jax.config.update("jax_disable_most_optimizations", False)
    yield
    jax.config.update("jax_disable_most_optimizations", True)


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real data files beside the repository; the test skips where it is absent."""
    folder = Path(__file__).resolve().parents[2] / "shared" / "data"
    if not folder.is_dir():
        pytest.skip("real data (../shared/data) is not on this machine")
    return folder
