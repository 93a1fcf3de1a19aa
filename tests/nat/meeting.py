"""Two players meet with `peer-server punch`, one behind each NAT of a laboratory.

Owns: what is a meeting, what is a refusal, and how long each takes.
Never: knows which NATs let players meet (see `expectations`).
"""

import time
from dataclasses import dataclass

from lab import PORT, PUBLIC

DIALECTS = ["simple", "natpunch", "matchmaker"]
# What the host prints for the other player.
HANDED_OVER = r"^(?:session|lobby) (?:id|code): (\S+)$"
# What the joiner prints once the host may start the lobby, in the dialect where the host decides.
JOINED = {"matchmaker": r"^joined; "}
MET = r"connected directly"
KNOWS_THE_OTHER = r"^a player is at "
NOT_MET = r"^not connected: "
# Until the host has what it hands over, and until the joiner has come.
SERVER_SECONDS = 30
# Beyond the players' own patience.
GRACE_SECONDS = 15


@dataclass
class Outcome:
    """How a try ended."""

    # ok: both have proof of both ways; refused: both know of each other and say why they did not meet; else error
    kind: str
    # From the joiner's start until the later of the two has its proof.
    seconds: float | None = None
    transcript: str = ""

    def __str__(self):
        return f"ok {self.seconds:.1f}" if self.kind == "ok" else self.kind


def meet(lab, punch_bin, dialect, ttl, patience):
    """One try: `a` hosts, `b` joins."""
    flags = ["-a", PUBLIC, "-p", PORT, "-t", patience, "-wait", SERVER_SECONDS]
    if ttl is not None:
        flags += ["-ttl", ttl]
    host = lab.start("a", [punch_bin, "punch", dialect, "host", *flags])
    programs = [("host", host)]
    try:
        handed_over = host.wait_for(HANDED_OVER, SERVER_SECONDS)
        since = time.monotonic()
        if not handed_over:
            return Outcome("error", transcript=transcript(programs, since))
        join = lab.start("b", [punch_bin, "punch", dialect, "join", handed_over[1][1], *flags])
        programs.append(("join", join))
        if dialect in JOINED and join.wait_for(JOINED[dialect], SERVER_SECONDS):
            host.press_enter()
        deadline = since + SERVER_SECONDS + 2 * patience + GRACE_SECONDS
        codes = [program.wait(max(0.0, deadline - time.monotonic())) for _, program in programs]
        return judge(codes, programs, since)
    finally:
        lab.forget_programs(*(program for _, program in programs))


def judge(codes, programs, since):
    def seen(pattern):
        return [program.wait_for(pattern, 0) for _, program in programs]

    words = transcript(programs, since)
    met = seen(MET)
    if codes == [0, 0] and all(met):
        return Outcome("ok", max(when for when, _ in met) - since, words)
    if codes == [1, 1] and not any(met) and all(seen(KNOWS_THE_OTHER)) and all(seen(NOT_MET)):
        return Outcome("refused", transcript=words)
    return Outcome("error", transcript=f"exit codes {codes}\n{words}")


def transcript(programs, since):
    """What was printed when, in seconds from then."""
    lines = sorted((when - since, who, line) for who, program in programs for when, line in program.written())
    return "\n".join(f"  {when:7.2f} {who}: {line}" for when, who, line in lines)
