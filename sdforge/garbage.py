"""When Python looks for garbage: not while the server starts, later not among what was imported.

A full collection visits every object there is with the interpreter locked. Importing torch,
diffusers and gradio makes 600,000 of them and asks for a dozen collections on the way; each model
that leaves asks for one more (`memory.placing`), which would hold up sampling and answers for a
quarter of a second.
"""

from __future__ import annotations

import gc
from collections.abc import Iterator
from concurrent.futures import Future
from contextlib import contextmanager


def leave_it() -> None:
    """Collect nothing until `look_for_it`; what is dropped without cycles is freed as ever."""
    gc.disable()


def look_for_it_after(loaded: Future[None] | None) -> None:
    """Collect when the first model has been loaded, or could not be; None: at once."""
    if loaded is None:
        look_for_it()
    else:
        loaded.add_done_callback(lambda _: look_for_it())


def look_for_it() -> None:
    """Collect from now on, but for the objects that there are: they are taken to stay.

    A model among them gives its weights back all the same, since the memory manager does not rely
    on the garbage collector for that.
    """
    gc.freeze()
    gc.enable()


@contextmanager
def paused() -> Iterator[None]:
    """Let a block make thousands of objects that stay without a look at them every 700."""
    if not gc.isenabled():
        yield
        return
    gc.disable()
    try:
        yield
    finally:
        gc.enable()
