"""The process of the command fame-accel, also `python -m fame_accel`.

It imports next to nothing before main() runs, so that an interrupt ends in one line from then on.
"""

import os
import sys


def main() -> int:
    """Run the command that this process was started for.

    Returns:
        The exit status of `fame_accel.cli.main`; 130 after an interrupt, as shells have it for SIGINT; 141 where the
        reader of stdout or stderr has gone, as for SIGPIPE; 2, with one line on stderr, where stdout cannot be written.
    """
    try:
        return _run()
    except KeyboardInterrupt:
        return _last_words("interrupted", 130)
    except BrokenPipeError:
        return _last_words(None, 141)
    except OSError as error:
        return _last_words(f"stdout cannot be written: {error.strerror}", 2)


def _run() -> int:
    import signal

    _open_streams()
    from fame_accel.cli import main as command

    try:
        return command()
    finally:
        sys.stdout.flush()
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # an interrupt of Python's own ending would print a traceback


def _open_streams() -> None:
    """Open streams that the caller closed, and let both print any name in any encoding.

    Until they are open, the next file that is opened would become stdout or stderr.
    """
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # takes the lowest number that is free
    sys.stdout = sys.stdout or open(1, "w", encoding="utf-8", closefd=False)
    sys.stderr = sys.stderr or open(2, "w", encoding="utf-8", closefd=False)
    for stream in (sys.stdout, sys.stderr):
        stream.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]


def _last_words(message: str | None, status: int) -> int:
    """Print a message to stderr, and drop what Python would print when it flushes the streams at its end."""
    if message is not None:
        try:
            os.write(2, f"fame-accel: {message}\n".encode())
        except OSError:
            pass
    nowhere = os.open(os.devnull, os.O_WRONLY)
    for stream in (1, 2):
        os.dup2(nowhere, stream)
    return status


if __name__ == "__main__":
    sys.exit(main())
