"""How a command ends: one line and an exit code, whatever happened."""

from __future__ import annotations

import signal
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from typing import ClassVar, NoReturn

import click
from rich.console import Console

from engines.errors import UserError

LONGEST = 1000  # characters of a line: names in strangers' files have no limit
AGAIN_S = 0.05


INTERRUPTED = "interrupted; what was there before is untouched"


class Interrupted(BaseException):
    """A signal asks to end; not a KeyboardInterrupt, to which click would add an empty line."""

    came: ClassVar[bool] = False  # native code that it passes through may make another error of it


@contextmanager
def last_words(*, debug: bool) -> Iterator[None]:
    """A mistake of the user ends in one line and code 2, an error of ours in one line and code 1.

    Ctrl-C, SIGTERM and a closed terminal end in one line and code 130, when everything is tidied up.
    """
    _listen()
    try:
        yield
    except click.UsageError as error:
        where = error.ctx.command_path if error.ctx else "tp-export"
        _fail(f"{error.format_message()} (see {where} --help)", 2, debug=debug)
    except click.ClickException as error:
        _fail(error.format_message(), 2, debug=debug)
    except UserError as error:
        _fail(str(error), 2, debug=debug)
    except OSError as error:
        what = error.strerror or str(error)
        _fail(what if error.filename is None else f"{error.filename}: {what}", 2, debug=debug)
    except (Interrupted, KeyboardInterrupt, click.Abort):
        _fail(INTERRUPTED, 130, debug=debug)
    except Exception as error:  # noqa: BLE001 - the last line of defence
        what = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
        _fail(f"internal error: {what}; --debug shows where", 1, debug=debug)


def _fail(message: str, code: int, *, debug: bool) -> NoReturn:
    if debug:
        traceback.print_exc()
    if Interrupted.came:
        message, code = INTERRUPTED, 130
    line = "".join(c if c.isprintable() else "?" for c in " ".join(message.split()))
    if len(line) > LONGEST:
        line = f"{line[: LONGEST // 2]} … {line[-LONGEST // 2 :]}"
    Console(stderr=True).print(f"tp-export: {line}", markup=False, highlight=False, soft_wrap=True)
    sys.exit(code)


def _listen() -> None:
    """Make signals interrupt; one that arrives where exceptions cannot pass (in a destructor) comes again."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGALRM):
        if signal.getsignal(number) != signal.SIG_IGN:  # as under nohup
            signal.signal(number, _interrupt)
    sys.unraisablehook = _insist


def _interrupt(*_: object) -> NoReturn:
    Interrupted.came = True
    raise Interrupted


def _insist(lost: sys.UnraisableHookArgs) -> None:
    if isinstance(lost.exc_value, Interrupted):
        signal.setitimer(signal.ITIMER_REAL, AGAIN_S)
    else:
        sys.__unraisablehook__(lost)
