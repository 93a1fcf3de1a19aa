"""What is tried in a laboratory besides meetings: each scene fails with an AssertionError that says what it saw.

Owns: STUN from behind each type of NAT, two browsers that use it to call each other, a router that forgets everything.
"""

import json
import os
import re
import shutil
import sys
import time
from pathlib import Path

from expectations import SYMMETRIC
from lab import HERE, NAT_ADDRESSES, PORT, PUBLIC, SECOND_PORT
from meeting import HANDED_OVER, MET, SERVER_SECONDS, transcript

PROBE_SECONDS = 20
BROWSER_SECONDS = 150
# Two keep-alives of 2 s, until the joiner asks for the host once more, and their meeting.
MOVED_SECONDS = 10
BROWSER_TESTS = HERE.parent / "browser"


def stun_tells_the_public_address(nat, lab):
    """A player learns from two of our ports where the world sees it, and so whether its NAT is symmetric."""
    lab.set_nats(nat, "port")
    told = json.loads(run(lab, "a", [sys.executable, HERE / "stun_probe.py", PUBLIC, PORT, SECOND_PORT]))
    addresses, ports = zip(*told["mapped"])
    assert set(addresses) == {NAT_ADDRESSES["a"][0]}, told
    if nat in SYMMETRIC:
        assert ports[0] != ports[1], told
    else:
        assert set(ports) == {told["local_port"]}, told


def natdiscovery_agrees(nat, lab):
    """The same with coturn's discovery client, as far as a server with one address can tell it."""
    lab.set_nats(nat, "port")
    words = run(lab, "a", ["turnutils_natdiscovery", "-m", "-p", PORT, PUBLIC])
    reflexive = re.search(r"UDP reflexive addr: ([\d.]+):(\d+)", words)
    local = re.search(r"Local addr: : 0\.0\.0\.0:(\d+)", words)
    assert reflexive and local, words
    assert reflexive[1] == NAT_ADDRESSES["a"][0], words
    assert (reflexive[2] == local[1]) == (nat not in SYMMETRIC), words


def has_natdiscovery():
    return shutil.which("turnutils_natdiscovery") is not None


def browsers_call_each_other(lab):
    """Chromium behind two NATs that let in only what was asked for: a call needs the addresses that STUN tells."""
    lab.set_nats("port", "port")
    namespaces = [lab.namespace("a"), lab.namespace("b")]
    command = ["node", BROWSER_TESTS / "behind_nat.mjs", *namespaces, PUBLIC, PORT]
    seen = json.loads(run(lab, None, command, BROWSER_SECONDS).splitlines()[-1])
    for side, gathered in zip("ab", seen["gathered"]):
        reflexive = [found["address"] for found in gathered["candidates"] if found["type"] == "srflx"]
        assert reflexive == [NAT_ADDRESSES[side][0]], seen
    for (_, remote), other in zip(seen["ways"], "ba"):
        assert remote["address"] == NAT_ADDRESSES[other][0], seen


def host_is_found_behind_another_port(punch_bin, lab):
    """A natpunch host's router starts again and gives it another port: its keep-alives tell the server where it is."""
    # Symmetric: the new mapping has another port. Full: the joiner can be reached from any.
    lab.set_nats("symmetric", "full")
    flags = ["-a", PUBLIC, "-p", PORT, "-t", MOVED_SECONDS, "-wait", SERVER_SECONDS]
    host = lab.start("a", [punch_bin, "punch", "natpunch", "host", *flags])
    handed_over = host.wait_for(HANDED_OVER, SERVER_SECONDS)
    assert handed_over, host.text()
    lab.expire("a")
    since = time.monotonic()
    join = lab.start("b", [punch_bin, "punch", "natpunch", "join", handed_over[1][1], *flags])
    met = [program.wait_for(MET, SERVER_SECONDS + MOVED_SECONDS) for program in (host, join)]
    words = transcript([("host", host), ("join", join)], since)
    lab.forget_programs(host, join)
    assert all(met), words
    took = max(when for when, _ in met) - since
    assert took <= MOVED_SECONDS, f"after {took:.1f} s\n{words}"
    return f"after {took:.1f} s"


def lacks_for_browsers():
    """What is missing for the scene with browsers, in words; None: nothing."""
    if not shutil.which("node"):
        return "node is not installed (Debian: nodejs)"
    if not (BROWSER_TESTS / "node_modules").is_dir():
        return "the browser tests are not installed (npm ci in tests/browser)"
    if not Path(os.environ.get("CHROMIUM", "/usr/bin/chromium")).exists():
        return "Chromium is not installed (Debian: chromium)"
    return None


def run(lab, who, command, seconds=PROBE_SECONDS):
    program = lab.start(who, command)
    try:
        code = program.wait(seconds)
        assert code == 0, f"{command[0]} ended with {code}:\n{program.text()}"
        return program.text()
    finally:
        lab.forget_programs(program)
