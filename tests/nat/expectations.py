"""What should come out behind which NATs.

Owns: the types of NAT that are tried and who can meet whom.
"""

TYPES = ["full", "addr", "port", "symmetric", "symseq", "linux"]
# A mapping that depends on the destination: what the server saw is not what the other player meets.
SYMMETRIC = {"symmetric", "symseq"}

# Type of a, type of b, hops that the first packets to a player live (None: the command's own default).
STANDARD_CELLS = [
    ("full", "full", None),
    ("port", "port", None),
    ("port", "linux", None),
    ("full", "symmetric", None),
    ("port", "symmetric", None),
    ("linux", "linux", None),
]


def expected(a, b, ttl):
    """`ok` if such players must meet, `refused` if without guessing ports they cannot, `either` if it is a race."""
    # Packets of such a player come from a port that nobody has been told; only these two let them in.
    if a in SYMMETRIC and b not in {"full", "addr"} or b in SYMMETRIC and a not in {"full", "addr"}:
        return "refused"
    # The other player's first packet, if the router lets it reach itself, takes the port away from the player's own.
    if ttl == 0 and a == b == "linux":
        return "refused"
    if ttl == 0 and {a, b} == {"port", "linux"}:
        return "either"
    return "ok"
