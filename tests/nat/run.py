"""Runs the tests behind emulated NATs; `run.sh` says what they need.

Owns: which laboratories there are, what is tried in them, the tables, and the end of everything on every way out.
"""

import argparse
import itertools
import os
import queue
import signal
import statistics
import sys
import threading
import time
import traceback
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import scenes
from expectations import STANDARD_CELLS, TYPES, expected
from lab import HERE, Lab, Stopped, remove_abandoned
from meeting import DIALECTS, meet

ROOT = HERE.parent.parent
LABS = 6
# For what should come out one way or the other: long enough to be sure of a refusal.
CHECK_PATIENCE_SECONDS = 6
# With loss, far over what is aimed at: a slow meeting is told as one.
LOSS_PATIENCE_SECONDS = 20
LOSS_AIM_SECONDS, LOSS_AIM_SHARE = 8.0, 0.99
AIM_SECONDS = 3.0


def main():
    arguments = parse()
    remove_abandoned(r"pn(\d+)x\d+")
    # Whatever ends this run: the laboratories are removed in `finally`.
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda number, _: sys.exit(128 + number))
    runner = Runner(arguments)
    try:
        return {"check": runner.check, "matrix": runner.matrix, "loss": runner.loss}[arguments.what]()
    finally:
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, signal.SIG_IGN)
        runner.close()


def parse():
    parser = argparse.ArgumentParser(prog="tests/nat/run.sh", description="Players meet behind emulated NATs.")
    what = parser.add_subparsers(dest="what", metavar="WHAT")
    check = what.add_parser("check", help="what every run of the tests tries (the default)")
    matrix = what.add_parser("matrix", help="every type of NAT with every other")
    loss = what.add_parser("loss", help="all that can meet, with lost packets")
    for one in (parser, check, matrix, loss):
        one.add_argument("--dialects", type=lambda text: text.split(","), default=DIALECTS, help="comma-separated")
        one.add_argument("--labs", type=int, default=LABS, help="laboratories side by side")
    for one in (matrix, loss):
        one.add_argument("--types", type=lambda text: text.split(","), default=TYPES, help="of NATs, comma-separated")
        one.add_argument("--ttl", type=int, help="hops that the first packets live; 0: no such packets")
    loss.add_argument("--percent", type=float, default=10, help="lost in each NAT, each way")
    loss.add_argument("--runs", type=int, default=4, help="meetings of each dialect in each cell")
    arguments = parser.parse_args()
    arguments.what = arguments.what or "check"
    if unknown := set(arguments.dialects) - set(DIALECTS):
        parser.error(f"unknown dialect: {', '.join(unknown)}")
    if unknown := set(getattr(arguments, "types", TYPES)) - set(TYPES):
        parser.error(f"unknown type of NAT: {', '.join(unknown)}")
    return arguments


class Runner:
    def __init__(self, arguments):
        self.dialects = arguments.dialects
        self.arguments = arguments
        self.labs = []
        self.stopping = threading.Event()
        # One for each laboratory, and one for each meeting in it.
        self.workers = ThreadPoolExecutor(arguments.labs * (1 + len(DIALECTS)))
        built = os.environ.get("CARGO_TARGET_DIR") or ROOT / "target"
        self.server_bin = os.path.abspath(os.environ.get("PEER_SERVER_BIN") or f"{built}/debug/peer-server")
        self.punch_bin = os.path.abspath(os.environ.get("PUNCH_BIN") or self.server_bin)

    def check(self):
        names = ", ".join(self.dialects)
        cells = [(f"{names}: {a} and {b}", partial(self.check_cell, a, b, ttl)) for a, b, ttl in STANDARD_CELLS]
        stun = [(f"STUN behind {nat}", partial(scenes.stun_tells_the_public_address, nat)) for nat in TYPES]
        if scenes.has_natdiscovery():
            stun += [
                (f"turnutils_natdiscovery behind {nat}", partial(scenes.natdiscovery_agrees, nat))
                for nat in ("port", "symmetric")
            ]
        else:
            print("skipped turnutils_natdiscovery: it is not installed (Debian: coturn)", flush=True)
        moved = []
        if "natpunch" in self.dialects:
            scene = partial(scenes.host_is_found_behind_another_port, self.punch_bin)
            moved = [("natpunch: a host behind a router that started again", scene)]
        browsers = [("browsers call each other behind port and port", scenes.browsers_call_each_other)]
        if lacks := scenes.lacks_for_browsers():
            print(f"skipped {browsers[0][0]}: {lacks}", flush=True)
            browsers = []
        passed = failed = 0
        for name, problem in self.in_labs(browsers + cells + moved + stun):
            if problem is None:
                passed += 1
                print(f"ok     {name}", flush=True)
            else:
                failed += 1
                print(f"FAILED {name}\n{problem}", flush=True)
        print(f"{passed} passed, {failed} failed")
        return 0 if failed == 0 else 1

    def check_cell(self, a, b, ttl, lab):
        outcomes = self.meet_all(lab, a, b, ttl, CHECK_PATIENCE_SECONDS)
        wrong = [
            f"{dialect}: {outcome}, expected {expected(a, b, ttl)}\n{outcome.transcript}"
            for dialect, outcome in outcomes.items()
            if outcome.kind != expected(a, b, ttl)
        ]
        assert not wrong, "\n".join(wrong)

    def matrix(self):
        ttl, types = self.arguments.ttl, self.arguments.types
        cells = list(itertools.product(types, types))
        outcomes = {}

        def one(a, b, lab):
            outcomes[a, b] = self.meet_all(lab, a, b, ttl, CHECK_PATIENCE_SECONDS)

        tasks = [(f"{a} and {b}", partial(one, a, b)) for a, b in cells]
        broken = [f"{name}: {problem}" for name, problem in self.in_labs(tasks) if problem is not None]
        wrong = []
        for dialect in self.dialects:
            print(f"\n{dialect}: rows host, columns join; seconds from the joiner's start until both have proof")
            print("          " + "".join(f"{b:11}" for b in types))
            for a in types:
                row = [outcomes[a, b][dialect] if (a, b) in outcomes else None for b in types]
                texts = []
                for b, outcome in zip(types, row):
                    text = str(outcome)
                    wanted = expected(a, b, ttl)
                    if wanted == "either" and outcome is not None and outcome.kind != "error":
                        text += "~"
                    elif outcome is not None and outcome.kind == "ok" != wanted:
                        text += "+"
                    elif outcome is None or outcome.kind != wanted:
                        text += "!"
                        wrong.append(f"{dialect}, {a} and {b}: {outcome}\n{outcome.transcript if outcome else ''}")
                    texts.append(f"{text:11}")
                print(f"{a:10}" + "".join(texts))
            times = sorted(
                outcome[dialect].seconds for outcome in outcomes.values() if outcome[dialect].kind == "ok"
            )
            if times:
                print(f"{len(times)} met: median {statistics.median(times):.2f} s, slowest {times[-1]:.2f} s")
        print("\n+ better than expected   ~ a race: either way   ! not as expected")
        for problem in broken + wrong:
            print(problem)
        return 1 if broken or wrong else 0

    def loss(self):
        ttl, percent = self.arguments.ttl, self.arguments.percent
        pairs = itertools.product(self.arguments.types, self.arguments.types)
        green = [(a, b) for a, b in pairs if expected(a, b, ttl) == "ok"]
        found = {dialect: [] for dialect in self.dialects}

        def one(a, b, lab):
            for dialect, outcome in self.meet_all(lab, a, b, ttl, LOSS_PATIENCE_SECONDS).items():
                found[dialect].append((a, b, outcome))

        tasks = [(f"{a} and {b}", partial(one, a, b)) for a, b in green * self.arguments.runs]
        broken = [f"{name}: {problem}" for name, problem in self.in_labs(tasks, percent) if problem is not None]
        missed = list(broken)
        print(f"{percent:g} % lost in each NAT, each way; seconds from the joiner's start until both have proof")
        for dialect, tries in found.items():
            times = sorted(outcome.seconds for _, _, outcome in tries if outcome.kind == "ok")
            in_time = sum(seconds <= LOSS_AIM_SECONDS for seconds in times)
            share = in_time / max(1, len(tries))
            quantiles = ", ".join(f"p{p} {quantile(times, p):.2f}" for p in (50, 90, 99, 100)) if times else "none"
            print(
                f"{dialect}: {in_time} of {len(tries)} within {LOSS_AIM_SECONDS:g} s ({share:.1%}), {len(times)} at all;"
                f" {quantiles}"
            )
            for a, b, outcome in tries:
                if outcome.kind != "ok" or outcome.seconds > LOSS_AIM_SECONDS:
                    print(f"{dialect}, {a} and {b}: {outcome}\n{outcome.transcript}")
            if share < LOSS_AIM_SHARE:
                missed.append(f"{dialect}: {share:.1%} is under the aim of {LOSS_AIM_SHARE:.0%}")
        for problem in missed:
            print(problem)
        return 1 if missed else 0

    def meet_all(self, lab, a, b, ttl, patience):
        """A meeting of each dialect at once, between the same NATs: {dialect: outcome}."""
        lab.set_nats(a, b)
        tries = {
            dialect: self.workers.submit(meet, lab, self.punch_bin, dialect, ttl, patience) for dialect in self.dialects
        }
        return {dialect: one.result() for dialect, one in tries.items()}

    def in_labs(self, tasks, loss=0):
        """Does (name, function of a lab) in as many labs as there are, yields (name, problem or None) as they end."""
        todo, done = queue.SimpleQueue(), queue.SimpleQueue()
        for task in tasks:
            todo.put(task)

        def serve(number):
            lab = Lab(f"pn{os.getpid()}x{number}", self.server_bin)
            self.labs.append(lab)
            try:
                if self.stopping.is_set():
                    raise Stopped
                lab.open(loss)
                while not self.stopping.is_set():
                    name, task = todo.get_nowait()
                    done.put((name, problem_of(task, lab)))
            except queue.Empty:
                pass
            except Exception:
                done.put(("a laboratory", traceback.format_exc()))
                return
            finally:
                lab.close()
                done.put(None)

        count = min(self.arguments.labs, len(tasks))
        for number in range(count):
            self.workers.submit(serve, number)
        reported = 0
        while count:
            # With a timeout, so that signals are handled meanwhile.
            try:
                result = done.get(timeout=0.5)
            except queue.Empty:
                continue
            if result is None:
                count -= 1
            else:
                reported += 1
                yield result
        while not todo.empty():
            yield todo.get()[0], "was not tried: no laboratory was left"

    def close(self):
        self.stopping.set()
        for lab in self.labs:
            lab.kill_programs()
        self.workers.shutdown(wait=True)
        # Each was closed by the one who opened it; this is for those that failed to.
        for lab in self.labs:
            lab.close()


def problem_of(task, lab):
    try:
        task(lab)
        return None
    except AssertionError as problem:
        return str(problem)
    except Exception:
        return f"{traceback.format_exc()}\nwhat the server wrote:\n{lab.server_lines()[-5000:]}"


def quantile(values, percent):
    """Of sorted values: the smallest that so many percent of them do not exceed."""
    return values[max(0, -(-len(values) * percent // 100) - 1)]


if __name__ == "__main__":
    began = time.monotonic()
    code = main()
    print(f"took {time.monotonic() - began:.0f} s")
    sys.exit(code)
