#!/usr/bin/env bash
# Where the server's CPU goes while a workload runs: profiles/flamegraph.sh WORKLOAD OUT.svg [SETTING...]
# Needs perf, and `cargo install inferno` for the drawing.
set -euo pipefail
cd "$(dirname "$0")/.."
workload=$1 out=$2
shift 2
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT

target/release/peer-stress run "$workload" "$@" seconds=10 warm_up=1 >"$folder/figures" &
generator=$!
# The generator starts the server: its first child that is one.
for _ in $(seq 100); do
    server=$(pgrep -P "$generator" -x peer-server) && break
    sleep 0.1
done
sleep 3
# A clock and not a counter, so that virtual machines will do; the compiler keeps no frame pointers.
timeout 60 perf record --quiet -e cpu-clock -F 999 --call-graph dwarf,16384 -p "$server" -o "$folder/perf" -- sleep 5
wait "$generator"
perf script -i "$folder/perf" 2>"$folder/complaints" | inferno-collapse-perf |
    inferno-flamegraph --title "peer-server: CPU, $(basename "$workload" .json)" |
    sed '/^ *\/\/ /d' >"$out" # without the comments of its script
cat "$folder/figures"
