"""SIGINT and SIGTERM: asked to stop, a run ends at the next step and is saved."""

import signal
import threading


class Interrupted(Exception):
    """The run was stopped by a signal and saved; the same command continues it."""

    def __init__(self, signal_number: int, *, step: int, folder):
        self.signal_number = signal_number
        # What a shell reports for a process that died of the signal.
        self.exit_code = 128 + signal_number
        self.args = (
            f"Stopped by {signal.Signals(signal_number).name} after step {step}; the"
            f" run in {folder} is saved, and training it again continues it.",
        )


class StopSignals:
    """While entered, the first SIGINT or SIGTERM is remembered in `received`.

    A second SIGINT interrupts at once, as usual. Python delivers signals to the main
    thread only, so in another thread this does nothing.
    """

    def __init__(self):
        self.received: int | None = None
        self._before = {}

    def __enter__(self):
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                self._before[number] = signal.signal(number, self._remember)
        return self

    def __exit__(self, *_):
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _remember(self, number, _):
        if self.received is not None and number == signal.SIGINT:
            raise KeyboardInterrupt
        self.received = number
