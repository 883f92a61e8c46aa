"""The command line: parse, call one function, print. The work is done elsewhere."""

import os
import sys
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from physnn.commands import COMMANDS, FAILED, WRONG, Folder
from physnn.compiled import keep_compiled


def train(arguments: list[str]) -> int:
    """Train an experiment, or continue a run.

    The first argument is a TOML file or a run folder; every field of the experiment
    can be overridden after it.
    """
    from evals.chip_mesh import one_device_per_core
    from train.distributed import ProcessLost, is_first, join, leave
    from train.experiment import Experiment, load_experiment
    from train.loop import train as train_experiment

    if not arguments or arguments[0] in ("-h", "--help"):
        print("usage: physnn train EXPERIMENT.toml|RUN_FOLDER [--folder DIR] [--…]")
        print(train.__doc__)
        print("`physnn train EXPERIMENT.toml --help` lists what can be overridden.")
        return 0 if arguments else WRONG
    source = Path(arguments[0])
    continues = source.is_dir()
    path = source / "experiment.toml" if continues else source

    @dataclass(frozen=True)
    class Train:
        """Train an experiment, or continue a run."""

        experiment: Annotated[Experiment, tyro.conf.arg(name="")]
        folder: Path  # where the run is kept
        quiet: bool = False  # no progress bar
        profile: str | None = None  # FIRST:LAST, steps to trace into FOLDER/profile
        distributed: bool = False  # one of several processes, as the cluster says
        coordinator: str | None = None  # HOST:PORT of process 0, without a cluster
        processes: int | None = None  # how many there are
        process_id: int | None = None  # which one this is, from 0

    loaded = load_experiment(path)
    folder = source if continues else Path("runs") / loaded.name
    chosen = tyro.cli(
        Train,
        prog=f"physnn train {arguments[0]}",
        args=arguments[1:],
        default=Train(loaded, folder),
        config=(tyro.conf.AvoidSubcommands,),
    )
    who = (chosen.coordinator, chosen.processes, chosen.process_id)
    if chosen.distributed or any(each is not None for each in who):
        join(*who, patience_s=chosen.experiment.mesh.patience_s)
    elif not chosen.experiment.mesh.is_one_device:
        one_device_per_core()
    try:
        run = train_experiment(
            chosen.experiment,
            chosen.folder,
            progress=not chosen.quiet,
            profile=chosen.profile,
        )
    except ProcessLost as lost:
        leave(lost)
    if is_first():
        print(run.folder)
    return 0


def main() -> None:
    """Entry point of `physnn` and `python -m physnn`."""
    # A warning is a sentence for a person; where in our code it stands is not.
    warnings.showwarning = lambda warning, *_: print(
        f"physnn: {warning}", file=sys.stderr
    )
    keep_compiled()
    sys.exit(_guarded(sys.argv[1:]))


def _guarded(arguments: list[str]) -> int:
    """Run a command; what a user can cause ends in one sentence, not in a traceback."""
    try:
        if arguments[:1] == ["train"]:
            return train(arguments[1:])
        commands: dict[str, Callable] = {
            f.__name__.replace("_", "-"): f for f in COMMANDS
        }
        # For the list of commands alone: `train` reads its file before its options.
        commands["train"] = _listed_train
        return tyro.extras.subcommand_cli_from_dict(
            commands, prog="physnn", description=__doc__, args=arguments
        )
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:
        # The reader went away (`| head`); nothing is left to flush to.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return FAILED
    except Exception as error:
        code = _exit_code(error)
        if code is None or os.environ.get("PHYSNN_TRACEBACK"):
            raise
        print(f"physnn: {error}", file=sys.stderr)
        return code


def _listed_train(source: Folder) -> int:
    """Train an experiment, or continue a run.

    Args:
        source: EXPERIMENT.toml or a run folder.
    """
    return train([str(source)])


def _exit_code(error: Exception) -> int | None:
    """The exit code for what a user can cause; None for a fault of ours."""
    from train.stopping import Interrupted

    if isinstance(error, Interrupted):
        return error.exit_code
    ours = type(error).__module__.split(".")[0] in (
        "physnn",
        "circuits",
        "train",
        "evals",
    )
    return WRONG if ours or isinstance(error, ValueError | OSError) else None


if __name__ == "__main__":
    main()
