#!/usr/bin/env bash
# Runs every test of the project: format, lints, Rust tests, the built server in a real browser, with WebSocket and STUN
# clients of other people, and with players behind emulated NATs.
# As root it installs what is missing from Debian's packages; otherwise it names what is missing and stops. What few people
# have, public STUN clients, a Redis and a NATS server and the tools for emulated NATs, may be missing: the tests that need
# it say that they are skipped.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

# The oldest Node.js that playwright-core runs on.
NODE_MAJOR_MIN=20
# The oldest Python that the interop tests' client runs on, as a tuple.
PYTHON_MIN='(3, 11)'

step() { printf '\n== %s\n' "$*"; }

install_missing() {
    local packages=()
    command -v cc >/dev/null || packages+=(gcc libc6-dev)
    [ -x "${CHROMIUM:-/usr/bin/chromium}" ] || packages+=(chromium)
    command -v node >/dev/null || packages+=(nodejs)
    command -v npm >/dev/null || packages+=(npm)
    python3 -c 'import ensurepip, venv' 2>/dev/null || packages+=(python3 python3-venv)
    command -v openssl >/dev/null || packages+=(openssl)
    [ "${#packages[@]}" -gt 0 ] || return 0
    if [ "$(id -u)" != 0 ] || ! command -v apt-get >/dev/null; then
        echo "missing: ${packages[*]} (Debian's names). Install them, or run this as root on Debian." >&2
        exit 1
    fi
    step "install ${packages[*]}"
    apt-get update -qq
    DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${packages[@]}" >/dev/null
}

install_optional() {
    local packages=() policy=/usr/sbin/policy-rc.d own_policy=
    command -v turnutils_stunclient >/dev/null || packages+=(coturn)
    command -v stun >/dev/null || packages+=(stun-client)
    command -v redis-server >/dev/null || packages+=(redis-server)
    command -v nats-server >/dev/null || [ -x /usr/sbin/nats-server ] || packages+=(nats-server)
    command -v ip >/dev/null || packages+=(iproute2)
    command -v nft >/dev/null || packages+=(nftables)
    command -v conntrack >/dev/null || packages+=(conntrack)
    command -v sysctl >/dev/null || packages+=(procps)
    [ "${#packages[@]}" -gt 0 ] && [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null || return 0
    step "install ${packages[*]}"
    # Debian starts a service when its package is installed: coturn's, Redis and the NATS server must not run.
    if [ ! -e "$policy" ]; then
        own_policy=$policy
        printf '#!/bin/sh\nexit 101\n' >"$policy"
        chmod 755 "$policy"
    fi
    apt-get update -qq || true
    DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${packages[@]}" >/dev/null ||
        echo "not installed: tests that need them are skipped"
    [ -z "$own_policy" ] || rm -f "$own_policy"
}

check_tools() {
    command -v cargo >/dev/null || { echo "missing: cargo (Rust 1.89 or newer)" >&2; exit 1; }
    local major
    major=$(node -p 'process.versions.node.split(".")[0]')
    if [ "$major" -lt "$NODE_MAJOR_MIN" ]; then
        echo "Node.js $major is too old for the browser tests: $NODE_MAJOR_MIN or newer is needed" >&2
        exit 1
    fi
    if ! python3 -c "import sys; sys.exit(sys.version_info < $PYTHON_MIN)"; then
        echo "$(python3 --version) is too old for the interop tests: 3.11 or newer is needed" >&2
        exit 1
    fi
}

install_missing
install_optional
check_tools

step "format"
cargo fmt --all --check

step "lints"
cargo clippy --workspace --all-targets --locked -- -D warnings

step "the protobuf schema's code"
cargo run --quiet --locked --manifest-path proto/Cargo.toml -- --check

step "Rust tests"
cargo test --workspace --locked

step "interop tests"
# The one that the Rust tests ran: to build it once more takes a minute, because features are others without the tests.
PEER_SERVER_BIN="${CARGO_TARGET_DIR:-$PWD/target}/debug/peer-server"
export PEER_SERVER_BIN
# One of the browser tests waits for a minute: they run beside the interop tests, and end by themselves.
browser_output=$(mktemp)
(
    cd tests/browser
    npm ci --no-audit --no-fund
    node run.mjs
) >"$browser_output" 2>&1 &
browser=$!
interop_status=0
bash tests/interop/run.sh || interop_status=$?

step "browser tests"
browser_status=0
wait "$browser" || browser_status=$?
cat "$browser_output"
rm -f "$browser_output"
[ "$interop_status$browser_status" = 00 ] || exit 1

step "tests behind emulated NATs"
exec bash tests/nat/run.sh
