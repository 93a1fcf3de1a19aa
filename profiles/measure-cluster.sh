#!/usr/bin/env bash
# What several nodes cost on one machine, beside one alone: profiles/measure-cluster.sh FOLDER
# Takes five minutes on two cores with 20,000 descriptors and redis-server, with nothing else running. Nodes, broker and generator share all cores.
set -euo pipefail
cd "$(dirname "$0")/.."
out=$1
mkdir -p "$out"
server=${SERVER:-target/release/peer-server}
stress=${STRESS:-target/release/peer-stress}
work=profiles/workloads
cores=(--server-cores 0,1 --generator-cores 0,1 --nodes 3 --broker redis)

{
    echo "date $(date -u +%F)"
    echo "commit $(git rev-parse HEAD)"
    echo "kernel $(uname -r)"
    echo "processor $(sed -n 's/^model name[^:]*: //p' /proc/cpuinfo | sort | uniq -c | sed 's/^ *//')"
    echo "memory $(sed -n 's/^MemTotal: *//p' /proc/meminfo)"
    echo "descriptors $(ulimit -n)"
    "$server" --version
    redis-server --version
} >"$out/machine.txt"

# nodes NAME ROUNDS WORKLOAD [SETTING...]: one alone, three with all of a namespace on one, and three with it on all, in turn.
nodes() {
    local name=$1 rounds=$2 workload=$3 sets=()
    shift 3
    for set in "$@"; do sets+=(--set "$set"); done
    "$stress" compare "alone=$server@alone" "same=$server@same-node" "cross=$server@cross-node" --workload "$workload" \
        --rounds "$rounds" "${sets[@]}" "${cores[@]}" --csv "$out/$name.csv" >"$out/$name.txt"
    echo "$name"
}

nodes nodes-signal 3 signal
nodes nodes-signal-16 3 signal window=16
nodes nodes-signal-2000 3 signal rate=2000
nodes nodes-signal-5000 3 signal rate=5000
nodes nodes-broadcast 3 broadcast peers=99 namespace_size=99
nodes nodes-presence 3 presence peers=300 namespace_size=300
nodes nodes-joins 3 presence peers=100 namespace_size=2
nodes nodes-connect 3 connect peers=200 window=16
nodes nodes-match 3 match
"$stress" run "$work/match-waiting.json" --target "$server" "${cores[@]}" --json >"$out/nodes-match-waiting.json"
