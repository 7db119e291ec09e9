#!/usr/bin/env bash
# Accepting and discarding, beside servers from the registries: `smtp sink`, Postfix's `smtp-sink`, mailin-embedded
# (crates.io), go-smtp (Debian), aiosmtpd (PyPI), smtp-server and Haraka (npm), loaded in turns by `smtp bench compare`,
# lock-step, 4 KiB, 20 sessions.
#
#   cargo build --release -p smtp-cli && bench/peers/accept.sh
#
# Installs all but the first two into target/peers/bench; a peer that cannot be had is left out, with a word. Prints
# messages per second and the server's CPU seconds per 1,000 messages, and their ratios to `smtp sink`. ROUNDS (default 3)
# of MESSAGES (default 4,000). Runs for about a minute, after installing; servers listen on 127.0.0.1 only.
set -euo pipefail
cd "$(dirname "$0")/../.."
. bench/lib.sh
here=$PWD/bench/peers
messages=${MESSAGES:-4000}
mkdir -p "$home"
work=$(mktemp -d)
pids=() urls=() names=()
trap 'kill "${pids[@]}" 2>/dev/null; rm -rf "$work"' EXIT

# server NAME COMMAND…: starts it, and waits for it to listen on $port.
server() {
    "${@:2}" >"$work/output" 2>&1 &
    if wait_for_port "$port"; then
        pids+=($!) names+=("$1") urls+=("smtp://127.0.0.1:$port?tls=none")
    else
        kill $! || true
        tail "$work/output" >&2
        without "$1" "it does not start"
    fi
    port=$(free_port)
}
port=$(free_port)

server "smtp sink" "$smtp" sink --listen "smtp://127.0.0.1:$port"
# shellcheck disable=SC2086
if command -v smtp-sink >/dev/null; then server smtp-sink smtp-sink $sink_user 127.0.0.1:"$port" 1000; fi
if from_cargo mailin-embedded; then server mailin-embedded "$home/rust/release/mailin_sink" "$port"; fi

# Neither go-smtp's newest release nor chrj/smtpd is here: they need a proxy of Go modules. Debian packages go-smtp, and Go.
if from_debian go-smtp golang-1.19-go golang-1.19-src golang-github-emersion-go-{smtp,sasl}-dev; then
    go=$home/go-smtp/usr/lib/go-1.19
    if GOROOT=$go GOPATH=$home/go-smtp/usr/share/gocode GO111MODULE=off GOCACHE=$home/go-smtp/cache \
        "$go/bin/go" build -o "$home/go-smtp/sink" "$here/go_smtp_sink.go"; then
        server go-smtp "$home/go-smtp/sink" "$port"
    else
        without go-smtp "it does not build"
    fi
fi

python=$home/python/bin/python
if "$python" -c 'import aiosmtpd; assert aiosmtpd.__version__ == "1.4.6"' 2>/dev/null ||
    { python3 -m venv "$home/python" && "$python" -m pip -q install --disable-pip-version-check aiosmtpd==1.4.6; }; then
    server aiosmtpd "$python" "$here/aiosmtpd_sink.py" "$port"
else
    without aiosmtpd "pip does not give it"
fi

if from_npm smtp-server 3.21.6; then
    server "npm smtp-server" env NODE_PATH="$home/smtp-server/node_modules" node "$here/smtp_server_sink.js" "$port"
fi

if from_npm Haraka 3.3.4; then
    haraka=$home/Haraka/node_modules/Haraka/bin/haraka config=$work/haraka/config
    node "$haraka" -i "$work/haraka" >/dev/null
    printf '%s\n' rcpt_to.in_host_list queue/discard >"$config/plugins"
    echo perf.test >"$config/host_list"
    printf '%s\n' "listen=127.0.0.1:$port" nodes=0 >"$config/smtp.ini"
    sed -i 's/^level=.*/level=warn/' "$config/log.ini"
    server Haraka env YES_REALLY_DO_DISCARD=1 node "$haraka" -c "$work/haraka"
fi

timeout 600 "$smtp" bench compare "${urls[@]}" --pid "$(IFS=,; echo "${pids[*]}")" --messages "$messages" \
    --rounds "$rounds" --from a@perf.test --to b@perf.test --no-pipelining --transfer data --json >"$work/report" 2>/dev/null
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
