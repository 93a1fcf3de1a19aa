"""Asks a STUN server from one socket at several ports, prints a line of JSON: the local port, the addresses it was told.

Arguments: address, ports. It is a reading of RFC 8489 of its own; nothing of the server is used.
"""

import json
import secrets
import socket
import struct
import sys

COOKIE = 0x2112A442
BINDING_REQUEST, BINDING_SUCCESS = 0x0001, 0x0101
XOR_MAPPED_ADDRESS = 0x0020
# Section 6.2.1: a request is repeated until it is answered.
TRIES, PATIENCE_SECONDS = 5, 1.0


def ask(sock, server):
    transaction = secrets.token_bytes(12)
    for _ in range(TRIES):
        sock.sendto(struct.pack("!HHI", BINDING_REQUEST, 0, COOKIE) + transaction, server)
        try:
            while True:
                answer, sender = sock.recvfrom(2048)
                if sender == server and answer[8:20] == transaction:
                    return mapped(answer)
        except TimeoutError:
            pass
    sys.exit(f"no answer from {server}")


def mapped(answer):
    kind, length, cookie = struct.unpack_from("!HHI", answer)
    assert (kind, length, cookie) == (BINDING_SUCCESS, len(answer) - 20, COOKIE), answer.hex()
    at = 20
    while at < len(answer):
        attribute, size = struct.unpack_from("!HH", answer, at)
        if attribute == XOR_MAPPED_ADDRESS:
            family, port, address = struct.unpack_from("!xBHI", answer, at + 4)
            assert family == 1, answer.hex()
            return [socket.inet_ntoa(struct.pack("!I", address ^ COOKIE)), port ^ COOKIE >> 16]
        at += 4 + (size + 3) // 4 * 4
    sys.exit(f"no XOR-MAPPED-ADDRESS in {answer.hex()}")


host, ports = sys.argv[1], sys.argv[2:]
probe = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
probe.bind(("", 0))
probe.settimeout(PATIENCE_SECONDS)
seen = [ask(probe, (host, int(port))) for port in ports]
print(json.dumps({"local_port": probe.getsockname()[1], "mapped": seen}))
