#!/usr/bin/env bash
# Sending 4 KiB messages to `smtp sink`, by `smtp bench`, Postfix's `smtp-source`, lettre and mail-send (crates.io), Python's
# smtplib and npm's nodemailer, in turns; 20 sessions that are reused, but smtplib, which has one. Only `smtp bench` can
# pipeline.
#
#   cargo build --release -p smtp-cli && bench/peers/send.sh
#
# Installs what comes from crates.io and npm into target/peers/bench; a client that cannot be had is left out. Prints
# messages per second, the CPU seconds of the sending process per 1,000 messages, its start included, and the ratio of
# these to those of `smtp bench`; medians of ROUNDS (default 3) of MESSAGES (default 3,000). Runs for about a minute, after
# installing; nothing leaves the machine.
set -euo pipefail
cd "$(dirname "$0")/../.."
. bench/lib.sh
here=$PWD/bench/peers
messages=${MESSAGES:-3000}
mkdir -p "$home"
work=$(mktemp -d)
trap 'kill $sink 2>/dev/null; rm -rf "$work"' EXIT
port=$(free_port)
"$smtp" sink --listen "smtp://127.0.0.1:$port?tls=none" >/dev/null 2>&1 &
sink=$!
wait_for_port "$port"

# client NAME COMMAND…: a line "seconds user system" for each round, in a file of its own.
names=()
clients=()
client() { names+=("$1") && clients+=("${*:2}"); }
client "smtp bench, lock-step" "$smtp" bench "smtp://127.0.0.1:$port?tls=none" --messages "$messages" --no-tui \
    --no-pipelining --transfer data
client "smtp bench, one flight" "$smtp" bench "smtp://127.0.0.1:$port?tls=none" --messages "$messages" --no-tui
if command -v smtp-source >/dev/null; then
    client smtp-source smtp-source -s 20 -m "$messages" -l 4096 -d -M gen.test -f a@perf.test -t b@perf.test \
        "127.0.0.1:$port"
fi
if from_cargo "lettre, mail-send"; then
    client lettre "$home/rust/release/lettre_source" "$port" "$messages"
    client mail-send "$home/rust/release/mail_send_source" "$port" "$messages"
fi
client smtplib python3 "$here/smtplib_source.py" "$port" "$messages"
if from_npm nodemailer 10.6.1; then
    client nodemailer env NODE_PATH="$home/nodemailer/node_modules" node "$here/nodemailer_source.js" "$port" "$messages"
fi

TIMEFORMAT='%R %U %S'
for _ in $(seq "$rounds"); do
    for n in "${!clients[@]}"; do
        # Words without blanks: paths of this machine and numbers.
        # shellcheck disable=SC2086
        { time timeout 120 ${clients[n]} >"$work/output" 2>&1; } 2>>"$work/$n" ||
            { echo "${names[n]} failed ($?):" >&2; cat "$work/output" >&2; exit 1; }
    done
done
printf '| client | msg/s | CPU s/1,000 | CPU ratio to smtp bench, lock-step |\n|---|---|---|---|\n'
for n in "${!clients[@]}"; do
    awk -v m="$messages" '{ print m / $1, ($2 + $3) * 1000 / m }' "$work/$n" >"$work/$n.figures"
    printf '| %s | %.0f | %.3f | %.1f |\n' "${names[n]}" "$(column 1 "$work/$n.figures")" "$(column 2 "$work/$n.figures")" \
        "$(echo "$(column 2 "$work/$n.figures") / $(column 2 "$work/0.figures")" | bc -l)"
done
