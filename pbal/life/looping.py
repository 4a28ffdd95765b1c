"""The loop of a process of its own, which nobody but the server ends, and its end, which nobody holds up.

    turning   SystemExit and KeyboardInterrupt of a task or a callback, and a stop() of the loop, stop uvloop's loop whatever else it
              has to do. A plugin's code does that easily: some libraries call sys.exit(). So the loop is turned on until the server's
              own task is done, and what stopped it is told. An interrupt from outside is a signal, which has a handler (observe/stuck.py)
    ending    every task that is left is cancelled and has END_SECONDS, and so have threads. Python itself would wait for both without a
              limit. Who stays is named in the log, and the process ends without him

What a callback raises is told in one line, and as a fault of the plugin if it is one's.
"""

import asyncio
import logging
import signal
import threading
from collections.abc import Coroutine
from functools import partial
from typing import Any

import uvloop

from pbal.life.threads import threads
from pbal.model import faults
from pbal.model.world import World

log = logging.getLogger("pbal")

END_SECONDS = 1.0
"""Seconds for tasks, and then for threads, to end when the server has ended. What they had to do for it they have done."""


def run(main: Coroutine[Any, Any, int], world: World) -> int:
    """Turn a loop until `main` is done, whatever else happens; what it returns. Raises: what it raises."""
    loop = uvloop.new_event_loop()
    asyncio.set_event_loop(loop)
    loop.set_exception_handler(partial(_raised, world))
    threading.excepthook = partial(_thread_raised, world, loop)
    task = loop.create_task(main, name="server")
    try:
        while not task.done():
            try:
                loop.run_until_complete(task)
            except faults.CAUGHT as error:
                if task.done():
                    break
                if isinstance(error, KeyboardInterrupt) and signal.getsignal(signal.SIGINT) is signal.default_int_handler:
                    raise  # the server's handlers are not there yet
                stopped(world, error)
        return task.result()
    finally:
        _end(loop)
        threading.excepthook = threading.__excepthook__


def stopped(world: World, error: BaseException) -> None:
    """Tell what would have ended the process."""
    fault = "somebody stopped it" if isinstance(error, RuntimeError) else faults.describe(error)
    plugin, generation = faults.blamed(error)
    if plugin:
        faults.report(world, plugin, "outside of a hook", error, generation)
        return
    kind = f"loop stopped {type(error).__name__}"
    world.log_limited(kind, "the loop was stopped, and goes on: %(fault)s", {"event": "loop_stopped", "fault": fault})


def _raised(world: World, loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
    """The loop's handler of exceptions that reach nobody."""
    error: BaseException | None = context.get("exception")
    plugin, generation = faults.blamed(error)
    if error is not None and plugin:
        faults.report(world, plugin, "a callback", error, generation)
    else:
        loop.default_exception_handler(context)


def _thread_raised(world: World, loop: asyncio.AbstractEventLoop, args: threading.ExceptHookArgs) -> None:
    """A thread ended with an exception."""
    if args.exc_value is not None and not isinstance(args.exc_value, SystemExit) and not loop.is_closed():
        loop.call_soon_threadsafe(_tell_thread, world, args.thread.name if args.thread is not None else "", args.exc_value)


def _tell_thread(world: World, name: str, error: BaseException) -> None:
    plugin, generation = faults.blamed(error)
    if plugin:
        faults.report(world, plugin, f"thread '{name}'", error, generation)
    else:
        fields = {"event": "thread_failed", "thread": name, "fault": faults.describe(error)}
        log.error("thread %(thread)s failed: %(fault)s", fields, exc_info=error if log.isEnabledFor(logging.DEBUG) else None)


def _end(loop: asyncio.AbstractEventLoop) -> None:
    """End what is left on the loop, and the loop."""
    tasks = asyncio.all_tasks(loop)
    for task in tasks:
        task.cancel()
    if tasks:
        _turn(loop, asyncio.wait(tasks, timeout=END_SECONDS))
    _turn(loop, asyncio.wait_for(loop.shutdown_asyncgens(), END_SECONDS))
    asyncio.set_event_loop(None)
    names = [task.get_name() for task in tasks if not task.done()]
    loop.close()  # it tells the threads of its executor to end
    for thread in threads():
        thread.join(END_SECONDS / max(1, len(threads())))
    names += [thread.name for thread in threads()]
    if names:
        log.error("ending without %(names)s, which did not end", {"event": "left_behind", "names": ", ".join(names)})


def _turn(loop: asyncio.AbstractEventLoop, what: Coroutine[Any, Any, object]) -> None:
    """Turn the loop for a part of its end."""
    task = loop.create_task(what)
    while not task.done():
        try:
            loop.run_until_complete(task)
        except faults.CAUGHT as error:
            log.debug("at the end of the loop: %(fault)s", {"event": "loop_end", "fault": faults.describe(error)})
