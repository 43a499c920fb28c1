"""Signals that end a process end this one in order, as Ctrl-C does."""

import os
import signal
import stat

RECEIVED: list[signal.Signals] = []  # SIGTERM, SIGHUP or SIGBREAK, once one has come


def treat_signals_as_ctrl_c() -> None:
    """Handle SIGTERM, SIGHUP and SIGBREAK as Ctrl-C; one that is ignored (`nohup`) stays so.

    SIGHUP comes when a terminal is closed, SIGBREAK is what Windows has for Ctrl-Break.
    """
    for name in ("SIGTERM", "SIGHUP", "SIGBREAK"):
        number = getattr(signal, name, None)
        if number is not None and signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, _interrupt)


def _interrupt(number: int, frame: object) -> None:
    if RECEIVED:  # a closing terminal sends several; only a second Ctrl-C is a person's
        return
    RECEIVED.append(signal.Signals(number))
    if RECEIVED[0].name == "SIGHUP":  # the terminal is gone, writing to it would fail
        null = os.open(os.devnull, os.O_RDWR)
        for descriptor in (1, 2):
            if stat.S_ISCHR(os.fstat(descriptor).st_mode):
                os.dup2(null, descriptor)
    handler = signal.getsignal(signal.SIGINT)
    if not callable(handler):  # Ctrl-C is ignored, as in the background of a script
        raise KeyboardInterrupt
    handler(number, frame)


def interruption() -> str:
    """How this process was interrupted, as a sentence."""
    return f"it was interrupted{f' by {RECEIVED[0].name}' if RECEIVED else ''}."
