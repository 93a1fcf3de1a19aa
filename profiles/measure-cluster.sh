#!/usr/bin/env bash
# What several nodes cost on one machine, beside one alone: profiles/measure-cluster.sh redis|nats [FOLDER]
# Every round's figures and summary.txt go into FOLDER (profiles/results/DATE-cluster/BROKER), the summary to standard output as well.
# Takes five minutes on two cores with 20,000 descriptors and the broker's program, with nothing else running. Nodes, broker and
# generator share all cores. Ends at the first run that lost, repeated or refused anything, or left something behind.
# SERVER and STRESS name other programs; QUICK=1 takes one short round, to try it.
set -euo pipefail
cd "$(dirname "$0")/.."
broker=$1
out=${2:-profiles/results/$(date -u +%F)-cluster/$broker}
server=${SERVER:-target/release/peer-server}
stress=${STRESS:-target/release/peer-stress}
work=profiles/workloads
last=$(($(nproc) - 1))
cores=$(seq -s, 0 $((last < 3 ? last : 3)))
how=(--nodes 3 --broker "$broker" --server-cores "$cores" --generator-cores "$cores" --no-refusals)
rounds=3 seconds=1.5 kills=3 waiting=2942
if [ -n "${QUICK:-}" ]; then rounds=1 seconds=0.5 kills=1 waiting=300; fi
mkdir -p "$out"
began=$SECONDS
table=$(mktemp)
trap 'rm -f "$table"' EXIT

# show TITLE ROWS: these rows of the last table.
show() { { echo "$1"; grep -E "^. ($2|  *┆|  *│)" "$table" | grep -v '^╞' || true; echo; } | tee -a "$out/summary.txt"; }

# nodes NAME TITLE WORKLOAD [SETTING...]: three nodes with all of a namespace on one, three with it on all, and one alone, in turn.
nodes() {
    local name=$1 title=$2 workload=$3 sets=()
    shift 3
    for set in "$@" warm_up=0.3 "seconds=$seconds"; do sets+=(--set "$set"); done
    "$stress" compare "same=$server@same-node" "cross=$server@cross-node" "alone=$server@alone" --workload "$workload" \
        --rounds "$rounds" "${sets[@]}" "${how[@]}" --csv "$out/$name.csv" >"$table"
    show "$title" 'messages/s|server CPU, ns|broker (CPU, ns|publishes|scripts)|latency p(50|99),'
}

# one NAME TITLE ROWS WORKLOAD [SETTING...]: three nodes.
one() {
    local name=$1 title=$2 rows=$3
    shift 3
    "$stress" run "$@" --target "nodes=$server" "${how[@]}" --csv "$out/$name.csv" >"$table"
    show "$title" "$rows"
}

{
    echo "date $(date -u +%F)"
    echo "commit $(git rev-parse HEAD)"
    echo "kernel $(uname -r)"
    echo "processor $(sed -n 's/^model name[^:]*: //p' /proc/cpuinfo | sort | uniq -c | sed 's/^ *//')"
    echo "memory $(sed -n 's/^MemTotal: *//p' /proc/meminfo)"
    echo "descriptors $(ulimit -n)"
    echo "load before $(cut -d' ' -f1-3 /proc/loadavg)"
    "$server" --version
    "$broker-server" --version
} >"$out/machine.txt"
echo "Three nodes and $broker: all of a namespace on one node (same), on all (cross); one node without a broker (alone). Median (least-greatest)." \
    | tee "$out/summary.txt"

nodes signal-1 'signal, 50 pairs, 1 under way in each' signal
nodes signal-16 'signal, 50 pairs, 16 under way in each' signal window=16
nodes signal-2000 'signal, 2,000 a second' signal rate=2000
nodes signal-5000 'signal, 5,000 a second' signal rate=5000
nodes broadcast 'broadcast to 98: a message is a copy' broadcast peers=99 namespace_size=99
nodes presence 'presence in 300, 4 changes under way: a message is a delivery' presence peers=300 namespace_size=300 window=4
nodes joins 'joins and leaves, each told to one' presence peers=100 namespace_size=2
nodes connect 'register, join, vanish: a message is a connection' connect peers=200 window=16
nodes match 'matches of two' match
one match-waiting "matches among $((waiting * 34)) waiting requests; in the end all are met" \
    'messages/s|latency p(50|99),|set-up|waiting|these met|server RSS, MiB|broker RSS' "$work/match-waiting.json" "peers=$waiting"
for kill in $(seq "$kills"); do
    one "node-loss-$kill" 'kill -9 of a node: until peer_left, 100 peers to 20 others each' 'latency (p50|max)' "$work/node-loss.json"
done
echo "all of it arrived, nothing was refused, nothing is left; $((SECONDS - began)) s" | tee -a "$out/summary.txt"
