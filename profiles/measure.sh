#!/usr/bin/env bash
# The standard measurements of one build on one machine, every round's figures kept: profiles/measure.sh FOLDER
# Takes about twenty minutes on two cores with 20,000 descriptors, with nothing else running. Ends at the first run that lost a message.
set -euo pipefail
cd "$(dirname "$0")/.."
out=$1
mkdir -p "$out"
server=target/release/peer-server
stress=target/release/peer-stress
work=profiles/workloads

{
    echo "date $(date -u +%F)"
    echo "commit $(git rev-parse HEAD)"
    echo "kernel $(uname -r)"
    echo "processor $(sed -n 's/^model name[^:]*: //p' /proc/cpuinfo | sort | uniq -c | sed 's/^ *//')"
    echo "memory $(sed -n 's/^MemTotal: *//p' /proc/meminfo)"
    echo "descriptors $(ulimit -n)"
    "$server" --version
} >"$out/machine.txt"

# beside NAME ROUNDS WORKLOAD [SETTING...]: the server and the floor in turn.
beside() {
    local name=$1 rounds=$2 workload=$3
    shift 3
    "$stress" compare floor "server=$server" --workload "$workload" --rounds "$rounds" --csv "$out/$name.csv" "$@" \
        >"$out/$name.txt"
    echo "$name"
}

# alone NAME ROUNDS WORKLOAD [SETTING...]: the server, where the floor has no counterpart.
alone() {
    local name=$1 rounds=$2 workload=$3
    shift 3
    "$stress" run "$workload" "$@" --target "$server" --rounds "$rounds" --csv "$out/$name.csv" >"$out/$name.txt"
    echo "$name"
}

# stun NAME ROUNDS WORKLOAD [SETTING...]: coturn, where it is installed, the floor and the server in turn.
stun() {
    local name=$1 rounds=$2 workload=$3 targets=()
    shift 3
    if command -v turnserver >/dev/null; then
        targets+=("coturn=turnserver -n -S --relay-threads 1 -L {address} -p {port} --no-cli -l /dev/null")
    fi
    targets+=(floor "server=$server")
    "$stress" compare "${targets[@]}" --workload "$workload" --rounds "$rounds" --csv "$out/$name.csv" "$@" >"$out/$name.txt"
    echo "$name"
}

two_loops=(--loops 2 --server-cores 0,1 --generator-cores 0,1)

beside signal-1 9 "$work/signal-1.json"
beside signal-1-system-calls 5 "$work/signal-1.json" --system-calls
beside signal-16 5 "$work/signal-16.json"
beside signal-64 5 "$work/signal-64.json"
beside signal-sdp 5 "$work/signal-sdp.json"
beside signal-open 9 "$work/signal-open.json"
beside broadcast-100 5 "$work/broadcast-100.json"
for where in same cross; do
    alone "signal-$where-loop" 5 "$work/signal-$where-loop.json" "${two_loops[@]}"
done
alone signal-plain 5 "$work/signal-1.json"
alone signal-tls 5 "$work/signal-tls.json"
alone signal-sdp-plain 5 "$work/signal-sdp.json"
alone signal-compressed 5 "$work/signal-compressed.json"
alone signal-among-10 5 "$work/signal-1.json" pairs=5
alone ping 5 "$work/ping.json"
alone match 5 "$work/match.json"
alone match-among-10000 5 "$work/match-among-10000.json"
alone rooms 5 "$work/rooms.json"
alone mixed 3 "$work/mixed.json"
alone slow-readers 3 "$work/slow-readers.json"
alone slow-readers-none 3 "$work/slow-readers.json" stall=0
alone presence 3 "$work/presence.json"
beside connect-storm 5 "$work/connect-storm.json"
alone connect 1 "$work/connect.json"
stun stun 9 "$work/stun.json"
stun stun-open 5 "$work/stun-open.json"
stun stun-ipv6 5 "$work/stun.json" --set ipv6=true
for how in simple simple-join natpunch; do
    alone "punch-$how" 5 "$work/punch-$how.json"
done
for peers in 6000 18000; do
    alone "idle-$peers" 1 idle "peers=$peers" namespace_size=10 seconds=1
done
for how in plain tls compression; do
    flag=()
    [ "$how" = plain ] || flag=("$how=true")
    alone "idle-$how" 1 idle peers=3000 namespace_size=10 seconds=1 "${flag[@]}"
done

# 100,000 peers: one process with six loops, and six generators with the same two cores.
many=(--loops 6 --server-cores 0,1 --generator-cores 0,1)
alone idle-100000 1 idle peers=100000 namespace_size=10 seconds=2 "${many[@]}"
for peers in 2000 100000; do
    alone "signal-among-$peers" 1 signal "peers=$peers" pairs=1000 namespace_size=10 warm_up=2 seconds=60 \
        --workers 6 "${many[@]}"
done
