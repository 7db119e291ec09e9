#!/usr/bin/env bash
# The queue in PostgreSQL beside the one in SQLite: two `smtp serve`, each loaded by `smtp bench`, in one run, taking turns.
# First nobody takes what is queued, so that only accepting is measured; then Postfix's `smtp-sink` takes all of it, and
# what is measured ends with the last message out.
#
#   cargo build --release -p smtp-cli && bench/postgres.sh
#
# Prints messages per second, and CPU seconds per 1,000 messages: those of `smtp serve`, and those of PostgreSQL. Each
# figure is the median of ROUNDS (default 3). Messages of 4 KiB: MESSAGES_1, MESSAGES_20 and MESSAGES_200 (default 500, 2,000
# and 2,000) over 1, 20 and 200 sessions that are reused, and MESSAGES (default 2,000) over 20 where they are relayed.
# PostgreSQL is the system's, with its defaults but for max_connections: it syncs each commit. It is reached over a Unix
# socket; all queues are on the disk of WORK (default: a new folder below /var/tmp). As root, PostgreSQL runs as the user
# postgres. Runs for a few minutes; nothing leaves the machine.
set -euo pipefail
cd "$(dirname "$0")/.."
. bench/lib.sh
work=$(mktemp -d "${WORK:-/var/tmp}/smtp-postgres-XXXXXX")
chmod 755 "$work"
pids=() sinks=() postgres=''
# PostgreSQL last: it waits for nobody, and nobody has to wait for it.
trap 'kill "${pids[@]}" "${sinks[@]}" 2>/dev/null; sleep 1; kill -QUIT $postgres 2>/dev/null; sleep 1; rm -rf "$work"' EXIT

programs=$(printf '%s\n' /usr/lib/postgresql/*/bin | sort -V | tail -1)
[ -x "$programs/initdb" ] || programs=$(dirname "$(command -v initdb)")
mkdir "$work/pg"
as=()
if [ "$(id -u)" = 0 ]; then
    as=(setpriv --reuid=postgres --regid=postgres --clear-groups)
    chown postgres: "$work/pg"
fi
(
    cd /
    "${as[@]}" "$programs/initdb" -D "$work/pg/data" --auth=trust --username=smtp --encoding=UTF8 --no-locale >/dev/null
)
"${as[@]}" "$programs/postgres" -D "$work/pg/data" -k "$work/pg" -c listen_addresses= -c max_connections=100 \
    >"$work/pg.log" 2>&1 &
postgres=$!
for _ in $(seq 300); do "$programs/pg_isready" -q -h "$work/pg" && break; sleep 0.1; done

# serve NAME QUEUE ROUTE: one more server; its port is in $port then.
serve() {
    port=$(free_port)
    "$smtp" serve --listen "smtp://127.0.0.1:$port?tls=none&role=mx" --data-dir "$work/$1" --log error --queue "$2" \
        --relay-domain perf.test --route "perf.test=smtp://127.0.0.1:$3?tls=none" --queue-retry 1h >/dev/null 2>"$work/$1.log" &
    pids+=($!)
    wait_for_port "$port"
}

# load PORT SESSIONS MESSAGES
load() {
    timeout 300 "$smtp" bench "smtp://127.0.0.1:$1?tls=none" --sessions "$2" --messages "$3" --size 4K \
        --from a@perf.test --to bench@perf.test --no-tui >/dev/null
}

count() { tr '\r' '\n' <"$work/$1.count" | sed -n 's/.*mesg=\([0-9]*\).*/\1/p' | tail -1 | grep . || echo 0; }

# one N SESSIONS MESSAGES [SINK]: loads a server, waits until all is in the sink, and appends "rate cpu postgres" to its file.
one() {
    local c0 c1 p0 p1 t0 t1 sink=${4:-} all
    [ -z "$sink" ] || all=$(($(count "$sink") + $3))
    c0=$(cpu "${pids[$1]}") p0=$(cpu "$postgres") t0=$(date +%s.%N)
    load "${ports[$1]}" "$2" "$3"
    if [ -n "$sink" ]; then
        for _ in $(seq 6000); do [ "$(count "$sink")" -ge "$all" ] && break; sleep 0.02; done
        [ "$(count "$sink")" -ge "$all" ] || { echo "not all was relayed" >&2; return 1; }
    fi
    t1=$(date +%s.%N) c1=$(cpu "${pids[$1]}") p1=$(cpu "$postgres")
    echo "$(echo "$3 / ($t1 - $t0)" | bc -l) $(echo "($c1 - $c0) * 1000 / $3" | bc -l)" \
        "$(echo "($p1 - $p0) * 1000 / $3" | bc -l)" >>"$work/$1.out"
}

# rows CASE: prints what was measured since the last time.
rows() {
    local n
    for n in 0 1; do
        printf '| %s | %s | %.0f | %.3f | %s |\n' "$1" "${names[n]}" "$(column 1 "$work/$n.out")" \
            "$(column 2 "$work/$n.out")" "$([ "$n" = 0 ] && echo – || printf '%.3f' "$(column 3 "$work/$n.out")")"
    done
    rm "$work"/*.out
}

names=(SQLite PostgreSQL) ports=()
url="postgres:///postgres?host=$work/pg&user=smtp&schema="
serve sqlite sqlite 1 && ports+=("$port")
serve postgres "${url}held" 1 && ports+=("$port")
printf '| case | queue | msg/s | CPU s/1,000 | of PostgreSQL |\n|---|---|---|---|---|\n'
for case in "1 ${MESSAGES_1:-500}" "20 ${MESSAGES_20:-2000}" "200 ${MESSAGES_200:-2000}"; do
    for _ in $(seq "$rounds"); do
        # shellcheck disable=SC2086
        for n in 0 1; do one "$n" $case; done
    done
    sessions=${case% *}
    rows "accepting, $sessions session$([ "$sessions" = 1 ] || echo s)"
done

# Those have thousands in their queues, and look at them.
kill "${pids[@]}" && wait "${pids[@]}" || true
pids=() ports=()
for n in 0 1; do
    next=$(free_port)
    # shellcheck disable=SC2086
    smtp-sink -c $sink_user 127.0.0.1:"$next" 1000 >"$work/$n.count" &
    sinks+=($!)
    wait_for_port "$next"
    if [ "$n" = 0 ]; then serve sqlite-relay sqlite "$next"; else serve postgres-relay "${url}relayed" "$next"; fi
    ports+=("$port")
done
for _ in $(seq "$rounds"); do
    for n in 0 1; do one "$n" 20 "${MESSAGES:-2000}" "$n"; done
done
rows "relaying, 20 sessions"
