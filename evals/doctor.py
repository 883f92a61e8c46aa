"""doctor: what this machine has, what is missing and how to get it."""

import importlib.util
import json
import os
import platform
import re
import shutil
import sys
import tempfile
from dataclasses import asdict, dataclass
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any

from packaging.requirements import Requirement

import physnn
from evals.program import run_program
from physnn.configs import config_folder
from physnn.units import readable

# Seconds after which a tool counts as hanging; a cold JAX with a GPU takes longest.
TOOL_TIMEOUT_s = 20.0
JAX_TIMEOUT_s = 120.0

# Used where physnn is run from a source tree without having been installed.
# fmt: off
LIBRARIES = (
    "jax", "jaxlib", "numpy", "scipy", "equinox", "diffrax", "lineax", "optimistix",
    "optax", "flax", "orbax-checkpoint", "jaxtyping", "tyro", "cattrs", "matplotlib",
    "jinja2", "pyyaml", "rich", "packaging", "markupsafe",
    "grain",
)
# fmt: on

_JAX_PROBE = """
import json, jax
devices = [f"{d.device_kind} ({d.platform}:{d.id})" for d in jax.devices()]
print(json.dumps([jax.default_backend(), devices]))
"""
_DIVIDER = """* a divider: 1 V over two equal resistors
v1 in 0 1
r1 in out 1k
r2 out 0 1k
.op
.print op v(out)
.end
"""


@dataclass(frozen=True)
class Program:
    """An outside program: how it is found, asked for its version and installed.

    `brew` and `commands` where they differ from the name; Debian's packages do not.
    """

    name: str
    purpose: str
    version_pattern: str
    version_flag: str = "--version"
    brew: str = ""
    commands: tuple[str, ...] = ()
    optional: bool = False

    def path(self) -> str | None:
        return next(
            filter(None, map(shutil.which, self.commands or (self.name,))), None
        )

    def install(self) -> str:
        """The line to type to install it."""
        if sys.platform == "darwin":
            return f"brew install {self.brew or self.name}"
        sudo = "" if os.geteuid() == 0 else "sudo "
        return f"{sudo}apt-get install {self.name}"


_BROWSERS = (
    "chromium",
    "chromium-browser",
    "google-chrome",
    "google-chrome-stable",
    "/Applications/Chromium.app/Contents/MacOS/Chromium",
    "/Applications/Google Chrome.app/Contents/MacOS/Google Chrome",
)
PROGRAMS = (
    Program("ngspice", "simulates netlists", r"ngspice-(\S+)"),
    Program("iverilog", "simulates Verilog", r"version (\S+)", "-V", "icarus-verilog"),
    Program("yosys", "synthesizes Verilog", r"Yosys (\S+)", "-V"),
    Program(
        "chromium",
        "opens reports in tests",
        r"(?:Chromium|Chrome) (\S+)",
        brew="--cask chromium",
        commands=_BROWSERS,
    ),
    Program(
        "verilator", "optional: compiles Verilog", r"Verilator (\S+)", optional=True
    ),
    Program(
        "adms",
        "optional: checks Verilog-A",
        r'admsXml" version="(\S+)"',
        commands=("admsXml",),
        optional=True,
    ),
)


@dataclass(frozen=True)
class Tool:
    """What was found of a `Program`: it works if it has a path and no problem."""

    name: str
    purpose: str
    path: str | None
    version: str | None
    problem: str | None
    install: str

    @property
    def works(self) -> bool:
        return self.path is not None and self.problem is None


@dataclass(frozen=True)
class Library:
    """A Python library: `version` is None where it is missing."""

    name: str
    version: str | None
    wanted: str

    @property
    def problem(self) -> str | None:
        if self.version is None:
            return "is missing"
        wanted = Requirement(f"{self.name}{self.wanted}").specifier
        if not wanted.contains(self.version, prereleases=True):
            return f"is {self.version}, but {self.wanted} is wanted"
        return None


@dataclass(frozen=True)
class Report:
    """Everything `physnn doctor` prints."""

    version: str
    folder: str
    python: str
    executable: str
    platform: str
    cores: int
    memory_bytes: int | None
    free_disk_bytes: int | None
    configs: str | None
    backend: str | None
    devices: tuple[str, ...]
    libraries: tuple[Library, ...]
    tools: tuple[Tool, ...]
    advice: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        """Plain values, ready for `json.dumps`."""
        table = asdict(self)
        for row, tool in zip(table["tools"], self.tools, strict=True):
            row["works"] = tool.works
        for row, library in zip(table["libraries"], self.libraries, strict=True):
            row["problem"] = library.problem
        return table

    def __str__(self) -> str:
        def size(n_bytes: int | None) -> str:
            return "unknown" if n_bytes is None else readable(float(n_bytes), "B")

        devices = f"{self.backend}: {', '.join(self.devices)}"
        lines = [
            f"physnn      {self.version}, {self.folder}",
            f"Python      {self.python}, {self.executable}",
            f"Machine     {self.platform}, {self.cores} cores,"
            f" {size(self.memory_bytes)} of memory,"
            f" {size(self.free_disk_bytes)} of disk free here",
            f"JAX runs on {devices if self.backend else 'nothing'}",
            f"Configs     {self.configs or 'not found'}",
            "",
            "Libraries",
        ]
        for library in self.libraries:
            state = library.version or "missing"
            lines.append(f"  {library.name:<18}{state:<12}{library.wanted}".rstrip())
        lines += ["", "Simulators and browser"]
        for tool in self.tools:
            state = tool.version if tool.works else "broken" if tool.path else "missing"
            where = tool.path or tool.install
            lines.append(f"  {tool.name:<12}{state!s:<18}{tool.purpose:<29}{where}")
        lines += ["", "To do" if self.advice else "Nothing is missing."]
        lines += [f"  - {sentence}" for sentence in self.advice]
        return "\n".join(lines)


def doctor() -> Report:
    """Examine this machine. Whatever is broken is reported, nothing is raised."""
    backend, devices, problem = _jax_devices()
    libraries = _libraries()
    tools = tuple(find_tool(program.name) for program in PROGRAMS)
    try:
        configs = str(config_folder())
    except FileNotFoundError:
        configs = None

    advice = [
        f"`{name}` is imported from {where}, not from beside physnn: uninstall it."
        for name, where in foreign_packages().items()
    ]
    if problem is not None:
        advice.append(f"JAX does not start: {problem}.")
    if configs is None:
        advice.append("The folder `configs` was not found: install physnn again.")
    if backend == "cpu" and Path("/dev/nvidia0").exists():
        advice.append("An NVIDIA GPU is there, but JAX runs on the CPU: `make cuda`.")
    advice += [
        f"{library.name} {library.problem}: `make env`."
        for library in libraries
        if library.problem
    ]
    advice += [
        f"{tool.name} at {tool.path} {tool.problem}; to install it: `{tool.install}`."
        if tool.path
        else f"{tool.name} is missing; whatever needs it is skipped. To install it:"
        f" `{tool.install}`."
        for program, tool in zip(PROGRAMS, tools, strict=True)
        if not tool.works and not (program.optional and tool.path is None)
    ]
    return Report(
        version=_version_of("physnn") or "not installed",
        folder=str(Path(physnn.__file__).parent),
        python=platform.python_version(),
        executable=sys.executable,
        platform=f"{platform.system()} {platform.release()} {platform.machine()}",
        cores=cores(),
        memory_bytes=_memory_bytes(),
        free_disk_bytes=_free_disk_bytes(),
        configs=configs,
        backend=backend,
        devices=devices,
        libraries=libraries,
        tools=tools,
        advice=tuple(advice),
    )


def foreign_packages() -> dict[str, str]:
    """Which of our packages would be imported from elsewhere than beside physnn.

    `circuits`, `train` and `evals` are generic names that others install, too.
    """
    home = Path(physnn.__file__).parents[1]
    foreign = {}
    for name in ("circuits", "train", "evals"):
        spec = importlib.util.find_spec(name)
        where = Path(spec.origin) if spec and spec.origin else None
        if where is None or where.parents[1] != home:
            foreign[name] = str(where or "nowhere")
    return foreign


@cache
def find_tool(name: str) -> Tool:
    """Look for an outside program and try it; a broken one is told from a missing one.

    Raises `KeyError` for a name that is not in `PROGRAMS`.
    """
    program = {program.name: program for program in PROGRAMS}[name]
    path = program.path()
    version = problem = None
    if path is not None:
        output, problem = _run([path, program.version_flag], timeout_s=TOOL_TIMEOUT_s)
        found = re.search(program.version_pattern, output)
        version = found.group(1) if found else None
        if problem is None and version is None:
            problem = f"does not answer `{program.version_flag}` with its version"
        if problem is None and name == "ngspice":
            problem = _ngspice_problem(path)
    return Tool(name, program.purpose, path, version, problem, program.install())


def _ngspice_problem(path: str) -> str | None:
    """None if it solves a divider: versions that start can still fail to simulate."""
    with tempfile.TemporaryDirectory() as folder:
        netlist = Path(folder) / "divider.cir"
        netlist.write_text(_DIVIDER)
        output, problem = _run([path, "-b", str(netlist)], timeout_s=TOOL_TIMEOUT_s)
    if problem is None and not re.search(r"5\.0+e-01", output):
        return "does not solve a divider of two resistors"
    return problem


def _jax_devices() -> tuple[str | None, tuple[str, ...], str | None]:
    """Backend, devices, and what is wrong. In a process of its own: a broken driver
    may hang or crash, and a GPU's memory is not to be taken by looking at it."""
    output, problem = _run(
        [sys.executable, "-P", "-c", _JAX_PROBE], timeout_s=JAX_TIMEOUT_s
    )
    for line in reversed(output.splitlines()):
        if line.startswith("["):
            backend, devices = json.loads(line)
            return backend, tuple(devices), None
    errors = re.findall(r"^\w*(?:Error|Exception)\b.*", output, re.MULTILINE)
    return None, (), errors[-1].rstrip(".") if errors else problem or "it says nothing"


def _run(command: list[str], *, timeout_s: float) -> tuple[str, str | None]:
    """What a command prints, and what went wrong; an exit code is something, too."""
    output, code, problem = run_program(command, timeout_s=timeout_s)
    return output, f"ended with exit code {code}" if code else problem


def _libraries() -> tuple[Library, ...]:
    wanted: dict[str, str] = dict.fromkeys(LIBRARIES, "")
    for line in _requirements():
        requirement = Requirement(line)
        if requirement.marker is None:
            wanted[requirement.name] = str(requirement.specifier)
    return tuple(
        Library(name, _version_of(name), versions) for name, versions in wanted.items()
    )


def _requirements() -> list[str]:
    try:
        return metadata.requires("physnn") or []
    except metadata.PackageNotFoundError:
        return []


def _version_of(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def cores() -> int:
    """How many cores this process may use: of the system, by affinity and by quota."""
    n = os.cpu_count() or 1
    if hasattr(os, "sched_getaffinity"):
        n = len(os.sched_getaffinity(0))
    try:
        quota, period = Path("/sys/fs/cgroup/cpu.max").read_text("utf-8").split()
        return min(n, max(1, round(int(quota) / int(period))))
    except (OSError, ValueError):  # no such control group, or no quota: `max`
        return n


def _memory_bytes() -> int | None:
    """Physical memory, or what the container is allowed of it."""
    try:
        amounts = [os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")]
    except (OSError, ValueError):
        return None
    for limit in ("memory.max", "memory/memory.limit_in_bytes"):
        try:
            amounts.append(int(Path("/sys/fs/cgroup", limit).read_text()))
        except (OSError, ValueError):
            continue  # no such limit, or the word `max`
    return min(amounts)


def _free_disk_bytes() -> int | None:
    try:
        return shutil.disk_usage(Path.cwd()).free
    except OSError:
        return None
