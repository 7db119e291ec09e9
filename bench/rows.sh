#!/usr/bin/env bash
# What a message costs the server, and whoever sends it, in CPU seconds per 1,000 messages over 20 sessions: `smtp sink`
# loaded by `smtp bench`, over TCP, STARTTLS and QUIC, and beside it, where it can do the same, Postfix's `smtp-sink`, in
# turns.
#
#   cargo build --release -p smtp-cli && bench/rows.sh
#
# Medians of ROUNDS (default 3). Messages are of 4 KiB unless said. Needs Postfix's package; runs for about a minute;
# nothing leaves the machine.
set -euo pipefail
cd "$(dirname "$0")/.."
. bench/lib.sh
work=$(mktemp -d)
pids=()
trap 'kill "${pids[@]}" 2>/dev/null; rm -rf "$work"' EXIT

# ours URL: starts a sink; its address is in $url then, and its process in $pid.
ours() {
    "$smtp" sink --listen "$1" >"$work/out" 2>/dev/null &
    pid=$! && pids+=("$pid")
    for _ in $(seq 100); do grep -q listening "$work/out" && break; sleep 0.1; done
    url=$(sed -n 's/^listening \([^ ]*\).*/\1/p' "$work/out")
}
ours smtp://127.0.0.1:0
tcp=$url tcp_pid=$pid
ours smtp+quic://127.0.0.1:0
quic=$url quic_pid=$pid
theirs_port=$(free_port)
# shellcheck disable=SC2086
smtp-sink $sink_user 127.0.0.1:"$theirs_port" 1000 &
theirs=$! && pids+=("$theirs")
wait_for_port "$theirs_port"

# row NAME: prints a row from the reports of one or two servers on standard input.
row() {
    python3 -c '
import json, sys
name, report = sys.argv[1], json.load(sys.stdin)
middle = lambda values: sorted(values)[len(values) // 2]
cells = []
for contestant in report["contestants"]:
    rounds = contestant["rounds"]
    if any(r["messages"]["sent"] != r["messages"]["accepted"] for r in rounds):
        sys.exit(name + ": not all messages were accepted")
    cells.append([middle([r[who]["cpu_seconds_per_1000"] for r in rounds]) for who in ("server", "client")])
ours, theirs = cells[0], cells[-1]
if cells[0] is not cells[-1] and report["contestants"][0]["target"] == contestant["target"]:
    theirs = None
text = lambda cell: "%.3f | %.3f" % tuple(cell) if cell else "– | –"
print("| %s | %s | %s |" % (name, text(ours), text(theirs)))
' "$1"
}
# both NAME OPTIONS: the two in turns, in clear.
both() {
    "$smtp" bench compare "$tcp?tls=none" smtp://127.0.0.1:"$theirs_port" --pid "$tcp_pid,$theirs" --rounds "$rounds" \
        --json "${@:2}" 2>/dev/null | row "$1"
}
# alone NAME URL PID OPTIONS: one that nobody else does.
alone() {
    "$smtp" bench compare "$2" "$2" --insecure --pid "$3,$3" --rounds "$rounds" --json "${@:4}" 2>/dev/null | row "$1"
}

printf '| case | smtp sink | smtp bench to it | smtp-sink | smtp bench to it |\n|---|---|---|---|---|\n'
both "lock-step, DATA" --messages 10000 --no-pipelining --transfer data
both "pipelined, DATA" --messages 10000 --transfer data
both "each at its best (BDAT is one flight)" --messages 10000
both "a connection each, lock-step" --messages 3000 --connection message --no-pipelining --transfer data
both "100 KiB, DATA" --messages 3000 --size 100K --transfer data
both "1 MiB, DATA" --messages 300 --size 1M --transfer data
alone "STARTTLS, lock-step, DATA" "$tcp" "$tcp_pid" --messages 10000 --no-pipelining --transfer data
alone "STARTTLS, one flight" "$tcp" "$tcp_pid" --messages 10000
alone "STARTTLS, a connection each, resumed" "$tcp" "$tcp_pid" --messages 2000 --connection message
alone "STARTTLS, a connection each, not resumed" "$tcp" "$tcp_pid" --messages 1000 --connection message --no-resumption
alone "STARTTLS, 1 MiB, DATA" "$tcp" "$tcp_pid" --messages 300 --size 1M --transfer data
alone "QUIC, a stream for each message" "$quic" "$quic_pid" --messages 8000 --connection stream
alone "QUIC, 20 sessions on one connection" "$quic" "$quic_pid" --messages 8000 --connection shared
alone "QUIC, 1 MiB, a stream for each" "$quic" "$quic_pid" --messages 200 --size 1M --connection stream
