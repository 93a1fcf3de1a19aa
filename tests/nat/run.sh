#!/usr/bin/env bash
# Players behind emulated NATs meet through the built server, in network namespaces of their own. README.md says more.
# Needs root, iproute2, nftables, python3 3.11; without them it says so and ends well.
# PEER_SERVER_BIN names the server (default: the debug build of this checkout).
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"

skip() { echo "skipped: the tests behind emulated NATs need $*"; exit 0; }

[ "$(id -u)" = 0 ] || skip "root, for network namespaces"
for tool in ip:iproute2 nft:nftables sysctl:procps python3:python3; do
    command -v "${tool%%:*}" >/dev/null || skip "${tool%%:*} (Debian: ${tool##*:})"
done
probe="pn$$probe"
ip netns add "$probe" 2>/dev/null || skip "network namespaces, which this system does not allow"
usable=$(ip netns exec "$probe" nft list ruleset >/dev/null 2>&1 && echo yes || true)
ip netns del "$probe"
[ "$usable" = yes ] || skip "nftables, which this system does not allow"

exec python3 -B run.py "$@"
