#!/usr/bin/env bash
# Who holds the server's memory at its peak, with so many idle peers: profiles/heap.sh PEERS OUT.txt [SETTING...]
# Needs heaptrack.
set -euo pipefail
cd "$(dirname "$0")/.."
peers=$1 out=$2
shift 2
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT

cat >"$folder/config.json" <<CONFIG
{"host": "127.0.0.1", "port": 0, "loops": 1, "metrics_enabled": false, "log_level": "warn"}
CONFIG
heaptrack -o "$folder/heap" target/release/peer-server -config "$folder/config.json" >"$folder/log" 2>&1 &
recorder=$!
until address=$(sed -n 's/^listening on //p' "$folder/log") && [ -n "$address" ]; do
    kill -0 "$recorder"
    sleep 0.1
done
server=$(pgrep -P "$recorder" -x peer-server)
target/release/peer-stress run idle "peers=$peers" namespace_size=10 "$@" --target "$address" --pid "$server"
kill "$server"
wait "$recorder" || true
heaptrack_print "$folder"/heap* >"$out"
grep -E '^(peak heap|peak RSS|calls to alloc)' "$out"
