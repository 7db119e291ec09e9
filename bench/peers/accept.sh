#!/usr/bin/env bash
# Accepting and discarding, beside servers from the registries: `smtp sink`, Postfix's `smtp-sink`, Python's aiosmtpd and
# npm's smtp-server, loaded in turns by `smtp bench compare`, lock-step, 4 KiB, 20 sessions.
#
#   cargo build --release -p smtp-cli && bench/peers/accept.sh
#
# Installs the last two, from PyPI and npm, into target/peers/bench; a peer that cannot be had is left out, with a word.
# Prints messages per second and the server's CPU seconds per 1,000 messages, and their ratios to `smtp sink`. ROUNDS
# (default 3) of MESSAGES (default 2,000). Runs for about a minute; servers listen on 127.0.0.1 only.
set -euo pipefail
cd "$(dirname "$0")/../.."
. bench/lib.sh
here=$PWD/bench/peers
home=$PWD/target/peers/bench
messages=${MESSAGES:-2000}
mkdir -p "$home"
work=$(mktemp -d)
pids=() urls=() names=()
trap 'kill "${pids[@]}" 2>/dev/null; rm -rf "$work"' EXIT

# add NAME PORT: the server that has just been started.
add() {
    pids+=("$!")
    if wait_for_port "$2"; then
        names+=("$1") urls+=("smtp://127.0.0.1:$2?tls=none")
    else
        echo "$1 does not start: left out" >&2
        unset 'pids[-1]'
    fi
}

port=$(free_port)
"$smtp" sink --listen "smtp://127.0.0.1:$port" >/dev/null 2>&1 &
add "smtp sink" "$port"

if command -v smtp-sink >/dev/null; then
    port=$(free_port)
    # shellcheck disable=SC2086
    smtp-sink $sink_user 127.0.0.1:"$port" 1000 &
    add smtp-sink "$port"
fi

if [ -x "$home/python/bin/python" ] || { python3 -m venv "$home/python" && "$home/python/bin/pip" -q install aiosmtpd; }; then
    port=$(free_port)
    "$home/python/bin/python" "$here/aiosmtpd_sink.py" "$port" &
    add aiosmtpd "$port"
fi

if [ -d "$home/node_modules/smtp-server" ] || npm install --silent --prefix "$home" smtp-server >/dev/null; then
    port=$(free_port)
    NODE_PATH="$home/node_modules" node "$here/smtp_server_sink.js" "$port" &
    add "npm smtp-server" "$port"
fi

"$smtp" bench compare "${urls[@]}" --pid "$(IFS=,; echo "${pids[*]}")" --messages "$messages" --rounds "$rounds" \
    --no-pipelining --transfer data --json >"$work/report" 2>/dev/null
python3 - "$work/report" "${names[@]}" <<'PY'
import json, sys

contestants = json.load(open(sys.argv[1]))["contestants"]
middle = lambda values: sorted(values)[len(values) // 2]
first = None
print("| server | msg/s | CPU s/1,000 | CPU ratio to smtp sink |\n|---|---|---|---|")
for name, contestant in zip(sys.argv[2:], contestants):
    rounds = contestant["rounds"]
    assert all(r["messages"]["sent"] == r["messages"]["accepted"] for r in rounds), name + " did not take all"
    rate = middle([r["messages_per_second"] for r in rounds])
    cpu = middle([r["server"]["cpu_seconds_per_1000"] for r in rounds])
    first = first or cpu
    print(f"| {name} | {rate:.0f} | {cpu:.3f} | {cpu / first:.1f} |")
PY
