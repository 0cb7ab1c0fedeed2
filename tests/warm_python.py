"""The program that `tests.warm.python` puts into a folder, beside its settings."""

import contextlib
import json
import os
import select
import signal
import socket
import sys

RELAYED = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2)


def main(words):
    with open(os.path.join(os.path.dirname(os.path.abspath(sys.argv[0])), "settings.json")) as file:
        settings = json.load(file)
    known = settings["variables"]
    cold = any(
        said != known.get(name)
        for name, said in os.environ.items()
        if name.startswith(tuple(settings["cold"]))
    )
    how, what = [*words, "", ""][:2]
    module = how == "-m" and f"{what}.".startswith(tuple(settings["modules"]))
    spawned = how == "-c" and what.startswith(settings["spawn"])
    script = os.path.basename(how) in settings["scripts"]
    if (module or spawned or script) and not cold:
        with contextlib.suppress(ConnectionRefusedError):  # the server has ended: a cold start is right too
            end_as(stand_for(words, settings["server"]))
        signal.pthread_sigmask(signal.SIG_UNBLOCK, RELAYED)
    os.execv(settings["python"], [settings["python"], *words])


def stand_for(words, address):
    """Ask for a fork and pass signals to it; returns its wait status."""
    files = open_files()
    ignored = [number for number in RELAYED if signal.getsignal(number) == signal.SIG_IGN]
    signal.pthread_sigmask(signal.SIG_BLOCK, RELAYED)  # until there is somebody to pass them to
    server = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    server.connect(address)
    mask = os.umask(0)
    request = {
        "words": words, "folder": os.getcwd(), "environment": dict(os.environ), "umask": mask, "files": files,
        "ignored": ignored,
    }  # fmt: skip
    message = json.dumps(request).encode()
    socket.send_fds(server, [len(message).to_bytes(8, "big")], files)
    server.sendall(message)
    fork = number_of(server)
    if fork is None:
        sys.exit(f"the warm server has ended; what it said last: {os.path.dirname(address)}/log")

    def relay(number, _):
        with contextlib.suppress(ProcessLookupError):
            os.kill(fork, number)

    for number in RELAYED:
        if number not in ignored:
            signal.signal(number, relay)
    woken, wakes = os.pipe()
    os.set_blocking(wakes, False)
    signal.set_wakeup_fd(wakes)  # a signal in the moment before the wait ends it as well
    signal.pthread_sigmask(signal.SIG_UNBLOCK, RELAYED)
    while server not in select.select([server, woken], [], [])[0]:
        os.read(woken, 64)
    status = number_of(server)
    return signal.SIGKILL if status is None else status  # without the server no fork lives


def open_files():
    """The numbers of the files that this process was given."""
    found = []
    for name in os.listdir("/proc/self/fd"):
        with contextlib.suppress(OSError):  # the listing's own
            os.fstat(int(name))
            found.append(int(name))
    return found


def number_of(server):
    """The next number that the server says; None where it is gone."""
    said = b""
    while len(said) < 8 and (more := server.recv(8 - len(said))):
        said += more
    return int.from_bytes(said, "big") if len(said) == 8 else None


def end_as(status):
    if os.WIFSIGNALED(status):
        number = os.WTERMSIG(status)
        if number != signal.SIGKILL:
            signal.signal(number, signal.SIG_DFL)
        os.kill(os.getpid(), number)
    os._exit(os.WEXITSTATUS(status))


main(sys.argv[1:])
