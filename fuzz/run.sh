#!/usr/bin/env bash
# Fuzzes every target, or those named, for SECONDS_EACH seconds (60) each, beginning with the seeds and with what earlier runs found.
#   bash fuzz/run.sh [TARGET...]
# Needs cargo-fuzz (cargo install cargo-fuzz) and a C++ compiler.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

SECONDS_EACH=${SECONDS_EACH:-60}
TARGETS=(websocket http_head envelope deflate peer_message config_file shard_operations
    datagram stun punch_simple punch_natpunch punch_matchmaker punch_operations
    bevygap connect_token desk_operations node_traffic fleet)
# The sanitizers are behind flags that a stable compiler takes only so.
export RUSTC_BOOTSTRAP=1

[ "$#" -eq 0 ] || TARGETS=("$@")
for target in "${TARGETS[@]}"; do
    printf '\n== %s\n' "$target"
    mkdir -p "fuzz/corpus/$target"
    folders=("fuzz/corpus/$target")
    for seeds in "$target" messages; do
        case "$target/$seeds" in
            "$target/$target" | envelope/messages | peer_message/messages) ;;
            *) continue ;;
        esac
        [ ! -d "fuzz/seeds/$seeds" ] || folders+=("fuzz/seeds/$seeds")
    done
    options=(-max_total_time="$SECONDS_EACH" -max_len=8192 -timeout=10 -print_final_stats=1)
    [ ! -f "fuzz/dictionaries/$target" ] || options+=(-dict="fuzz/dictionaries/$target")
    cargo fuzz run "$target" "${folders[@]}" -- "${options[@]}"
done
