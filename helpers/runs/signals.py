"""Signals: SIGTERM and SIGHUP end this process in the same orderly way as Ctrl-C."""

import os
import signal
import stat

RECEIVED: list[signal.Signals] = []  # SIGTERM or SIGHUP, once one has come


def treat_signals_as_ctrl_c() -> None:
    """Handle SIGTERM and SIGHUP as Ctrl-C; a signal that is ignored (`nohup`) stays ignored."""
    for name in {"SIGTERM", "SIGHUP"} & {s.name for s in signal.Signals}:
        if signal.getsignal(getattr(signal, name)) is not signal.SIG_IGN:
            signal.signal(getattr(signal, name), _interrupt)


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
