"""A laboratory: two players behind emulated NATs, and the server on the public host between them.

Owns: its network namespaces and every process that runs in them; `close` ends them all, whatever state they are in.
Never: touches the network of the machine itself, or judges what it sees.
"""

import contextlib
import json
import os
import re
import subprocess
import threading
import time
from pathlib import Path

HERE = Path(__file__).resolve().parent
NATLAB = HERE / "natlab.sh"
STATES = Path("/run")
PUBLIC = "203.0.113.1"
PORT = 8080
SECOND_PORT = 3478
# The public address of each player's NAT, and the one that it moves to.
NAT_ADDRESSES = {"a": ("203.0.113.11", "203.0.113.21"), "b": ("203.0.113.12", "203.0.113.22")}
START_SECONDS = 20
EXIT_SECONDS = 10


class Stopped(Exception):
    """The run is over: nothing may be started any more."""


class Program:
    """A running program and the lines that it has written."""

    def __init__(self, command, environment=None):
        self.lines = []  # (when, text)
        self._changed = threading.Condition()
        self._process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            env=environment,
            # The terminal's Ctrl-C is for the runner, which ends the programs itself.
            start_new_session=True,
        )
        self._ended = False
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self):
        for line in self._process.stdout:
            with self._changed:
                self.lines.append((time.monotonic(), line.rstrip("\n")))
                self._changed.notify_all()
        self._process.wait()
        with self._changed:
            self._ended = True
            self._changed.notify_all()

    def wait_for(self, pattern, seconds):
        """The first line that matches, as (when, match); None if the program ended without it or the time is over."""
        pattern = re.compile(pattern)
        found = None
        seen = 0

        def has_it():
            nonlocal found, seen
            for when, line in self.lines[seen:]:
                seen += 1
                match = pattern.search(line)
                if match:
                    found = (when, match)
                    return True
            return self._ended

        with self._changed:
            self._changed.wait_for(has_it, seconds)
        return found

    def wait(self, seconds):
        """The exit code; None if it still runs after that time."""
        with self._changed:
            self._changed.wait_for(lambda: self._ended, seconds)
            return self._process.returncode if self._ended else None

    def press_enter(self):
        # If it has ended, its exit code says more.
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.write("\n")
            self._process.stdin.flush()

    def written(self):
        """Every line, as (when, text)."""
        with self._changed:
            return list(self.lines)

    def text(self):
        return "\n".join(line for _, line in self.written())

    def kill(self):
        # Until it was waited for, its number is nobody else's.
        self._process.kill()
        self._reader.join(EXIT_SECONDS)
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.close()


class Lab:
    """One laboratory; several stand side by side."""

    def __init__(self, name, server_bin):
        self.prefix = name
        self._server_bin = server_bin
        self._programs = []
        self._lock = threading.Lock()
        self._closed = False
        self._server = None

    def open(self, loss=0):
        """Builds the network and starts the server in it."""
        # Routed: a provider stands between the two NATs, or no packet could live for too few hops.
        self._natlab("up", "--routed", "--loss", str(loss))
        config = {
            "host": "0.0.0.0",
            "port": PORT,
            "extra_ports": [SECOND_PORT],
            "public_ipv4": PUBLIC,
            "ice_servers": ["auto"],
            "metrics_enabled": False,
            "loops": 2,
            # Several labs share the cores.
            "pin_cores": False,
        }
        # In natlab's own folder, which goes with the network.
        settings = STATES / f"natlab.{self.prefix}" / "server.json"
        settings.write_text(json.dumps(config))
        # Nothing of the caller's settings: PEER_PORT would win over the file.
        environment = {"PATH": os.environ.get("PATH", "")}
        self._server = self.start("pub", [self._server_bin, "-config", settings], environment)
        if not self._server.wait_for(rf"^listening on 0\.0\.0\.0:{PORT}$", START_SECONDS):
            raise RuntimeError(f"the server did not start:\n{self._server.text()}")

    def start(self, who, command, environment=None):
        """Starts a program on the public host (`pub`) or with a player (`a`, `b`); None: on the machine itself."""
        inside = ["ip", "netns", "exec", self.namespace(who)] if who else []
        with self._lock:
            if self._closed:
                raise Stopped
            program = Program([*inside, *map(str, command)], environment)
            self._programs.append(program)
            return program

    def namespace(self, who):
        return f"{self.prefix}-{who}"

    def set_nats(self, a, b):
        """Changes both NATs. They know nobody afterwards."""
        self._natlab("set-nat", "A", a)
        self._natlab("set-nat", "B", b)

    def expire(self, side):
        """Makes one NAT forget everything, as a router that starts again."""
        self._natlab("expire", side.upper())

    def server_lines(self):
        return self._server.text() if self._server else ""

    def kill_programs(self):
        """Ends all programs; none starts any more."""
        with self._lock:
            self._closed = True
            programs, self._programs = self._programs, []
        for program in programs:
            program.kill()

    def forget_programs(self, *programs):
        """Ends these programs alone."""
        with self._lock:
            self._programs = [program for program in self._programs if program not in programs]
        for program in programs:
            program.kill()

    def close(self):
        self.kill_programs()
        remove_lab(self.prefix)

    def _natlab(self, *arguments):
        if self._closed:
            raise Stopped
        run_natlab(self.prefix, *arguments)


def run_natlab(prefix, *arguments):
    done = subprocess.run(
        ["bash", NATLAB, *arguments],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=60,
        start_new_session=True,
        env={"PATH": os.environ.get("PATH", ""), "NATLAB_PREFIX": prefix},
        check=False,
    )
    if done.returncode != 0:
        raise RuntimeError(f"natlab {' '.join(arguments)} ended with {done.returncode}:\n{done.stdout}")
    return done.stdout


def remove_lab(prefix):
    """Removes a laboratory, however much of it there is."""
    run_natlab(prefix, "down")


def remove_abandoned(pattern):
    """Removes what killed runs have left; `pattern` finds the runner's process id in a laboratory's name."""
    for state in STATES.glob("natlab.*"):
        prefix = state.name.removeprefix("natlab.")
        owner = re.fullmatch(pattern, prefix)
        if owner and not Path("/proc", owner[1]).exists():
            remove_lab(prefix)
