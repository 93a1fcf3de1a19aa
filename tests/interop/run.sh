#!/usr/bin/env bash
# Runs the interop tests: third-party clients in Node.js and Python against the built server.
# PEER_SERVER_BIN names the server (default: the debug build of this checkout).
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"

TARGET="${CARGO_TARGET_DIR:-$PWD/../../target}"
VENV="$TARGET/interop-python"
export PEER_SERVER_BIN="${PEER_SERVER_BIN:-$TARGET/debug/peer-server}"

npm ci --no-audit --no-fund
# One that was made by another Python, or only half, is made again.
"$VENV/bin/python" -m pip --version >/dev/null 2>&1 || python3 -m venv --clear "$VENV"
"$VENV/bin/python" -m pip install --quiet --disable-pip-version-check --requirement requirements.txt
export INTEROP_PYTHON="$VENV/bin/python"
exec node run.mjs
