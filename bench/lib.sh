# What the scripts here share: to be sourced, not run. Needs `bc`, Postfix's package and, for a Postfix or an Exim, root.
# shellcheck shell=bash
# shellcheck disable=SC2034

smtp=${SMTP:-${CARGO_TARGET_DIR:-target}/release/smtp}
peers=${SMTP_TEST_PEERS:-target/peers}
# Where the peers that are no part of the tests are installed.
home=$(realpath -m "$peers/bench")
rounds=${ROUNDS:-3}

free_port() { python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])'; }

wait_for_port() {
    for _ in $(seq 300); do (exec 3<>"/dev/tcp/127.0.0.1/$1") 2>/dev/null && return; sleep 0.1; done
    echo "nobody listens on port $1" >&2
    return 1
}

# CPU seconds of a process and its children: those that live, and those that have ended.
cpu() {
    local pid
    for pid in $1 $(pgrep -P "$1"); do
        cat /proc/"$pid"/task/*/schedstat 2>/dev/null | awk '{ s += $1 } END { printf "%.6f\n", s / 1e9 }'
        awk '{ print ($16 + $17) / 100 }' "/proc/$pid/stat" 2>/dev/null || true
    done | awk '{ s += $1 } END { printf "%.6f", s }'
}

# without NAME REASON: says that a peer is left out.
without() { echo "$1 is left out: $2" >&2; }

# from_npm NAME VERSION: installs it into NAME below $home.
from_npm() {
    [ "$(node -p 'require(process.argv[1]).version' "$home/$1/node_modules/$1/package.json" 2>/dev/null)" = "$2" ] ||
        npm install --silent --omit=optional --prefix "$home/$1" "$1@$2" >/dev/null ||
        { without "$1" "npm does not give it"; return 1; }
}

# from_cargo NAME: builds it, and the other programs of bench/peers/rust, below $home.
from_cargo() {
    cargo build --quiet --release --locked --manifest-path bench/peers/rust/Cargo.toml --target-dir "$home/rust" >&2 ||
        { without "$1" "cargo does not build it"; return 1; }
}

# from_debian NAME PACKAGE…: unpacks Debian packages into NAME below $home, and installs nothing.
from_debian() {
    local dir=$home/$1 deb
    [ -d "$dir" ] && return
    rm -rf "$dir.part" && mkdir -p "$dir.part/debs"
    (cd "$dir.part/debs" && apt-get -q -o APT::Sandbox::User=root download "${@:2}" >/dev/null 2>&1) ||
        { without "$1" "apt-get does not give it; does it want an apt-get update?"; return 1; }
    for deb in "$dir.part"/debs/*.deb; do dpkg -x "$deb" "$dir.part"; done
    rm -r "$dir.part/debs" && mv "$dir.part" "$dir"
}

median() { sort -n | awk '{ a[NR] = $1 } END { print a[int((NR + 1) / 2)] }'; }

# column N FILE: its median.
column() { cut -d' ' -f"$1" "$2" | median; }

# As root, smtp-sink wants to be told as whom to run.
sink_user=$(if [ "$(id -u)" = 0 ]; then echo "-u nobody"; fi)

# postfix_at DIR PORT LINES: starts a Postfix with its spool below DIR, which keeps mail unless LINES say where it goes.
# Its limits are out of the way. Its main process is in DIR/master.pid.
postfix_at() {
    local dir=$1 port=$2
    mkdir -p "$dir/etc" "$dir/spool" "$dir/lib"
    chmod 755 "$dir" && chown postfix "$dir/lib"
    cat >"$dir/etc/main.cf" <<CONF
compatibility_level = 3.6
queue_directory = $dir/spool
data_directory = $dir/lib
myhostname = postfix.test
mydestination =
mynetworks = 127.0.0.0/8
inet_interfaces = 127.0.0.1
relay_domains = perf.test
smtpd_recipient_restrictions = permit_mynetworks, reject
maillog_file = /dev/null
maillog_file_prefixes = /dev
smtpd_client_connection_count_limit = 0
default_process_limit = 250
anvil_status_update_time = 3600s
in_flow_delay = 0
$3
CONF
    sed -E "s/^smtp +inet.*/127.0.0.1:$port inet n - n - 250 smtpd/; s/^([a-z].*(unix|fifo|pass) +[-yn] +[-yn] +)[-y] /\1n /" \
        /etc/postfix/master.cf >"$dir/etc/master.cf"
    postfix -c "$dir/etc" start >/dev/null 2>&1 || { echo "Postfix does not start" >&2; return 1; }
    wait_for_port "$port"
    tr -d ' ' <"$dir/spool/pid/master.pid" >"$dir/master.pid"
}

postfix_end() { postfix -c "$1/etc" stop >/dev/null 2>&1 || true; }

# exim_at DIR PORT: starts an Exim (.ci/setup unpacks it) that queues and does not deliver. Its main process is $!.
exim_at() {
    local dir=$1 port=$2
    mkdir -p "$dir/spool" "$dir/log"
    cp "$peers/exim/usr/sbin/exim4" "$dir/exim4"
    chmod 755 "$dir" && chown Debian-exim: "$dir/spool" "$dir/log"
    cat >"$dir/exim.conf" <<CONF
exim_path = $dir/exim4
spool_directory = $dir/spool
log_file_path = $dir/log/%slog
pid_file_path = $dir/spool/exim.pid
primary_hostname = exim.test
local_interfaces = 127.0.0.1
daemon_smtp_ports = $port
daemon_startup_retries = 0
disable_ipv6 = true
deliver_drop_privilege = true
keep_environment =
host_lookup =
rfc1413_hosts =
queue_only = true
split_spool_directory = true
smtp_accept_max = 0
smtp_accept_max_per_connection = 0
smtp_connect_backlog = 250
acl_smtp_rcpt = accept
acl_smtp_data = accept
begin routers
begin transports
begin retry
CONF
    "$dir/exim4" -C "$dir/exim.conf" -bdf >"$dir/log/output" 2>&1 &
    wait_for_port "$port"
}

# opensmtpd_at DIR PORT: starts an OpenSMTPD (from_debian unpacks it) that queues and does not deliver. Its folders and
# users are compiled in: it has a /var and lists of users of its own, in a mount namespace; and asks no DNS for its clients' names,
# as it would for each connection. Its main process is $!.
opensmtpd_at() {
    local dir=$1 port=$2
    mkdir -p "$dir"/var/{spool,run,lib/opensmtpd/empty}
    chmod -R 755 "$dir"
    cp "$home/opensmtpd/usr/sbin/smtpd" "$dir/var/smtpd"
    cat /etc/passwd - >"$dir/passwd" <<USERS
opensmtpd:x:64101:64101::/var/lib/opensmtpd/empty:/usr/sbin/nologin
opensmtpq:x:64102:64102::/var/lib/opensmtpd/empty:/usr/sbin/nologin
USERS
    printf '%s\n' opensmtpd:x:64101: opensmtpq:x:64102: | cat /etc/group - >"$dir/group"
    echo lookup file >"$dir/resolv.conf"
    cat >"$dir/var/smtpd.conf" <<CONF
smtp limit max-mails 1000000
listen on 127.0.0.1 port $port hostname opensmtpd.test
action "queue" relay host smtp://127.0.0.1:1
match from any for domain "perf.test" action "queue"
CONF
    # -P mta: nothing goes out.
    unshare --mount sh -ec "for name in passwd group resolv.conf; do mount --bind '$dir/'\$name /etc/\$name; done
        mount --bind '$dir/var' /var; exec /var/smtpd -d -P mta -f /var/smtpd.conf" >"$dir/log" 2>&1 &
    wait_for_port "$port"
}
