//! The tables, and how older ones become newer ones.
//!
//! An administrator may look into them with `psql`. Times are milliseconds since 1970, but for those of `shard` and `node`,
//! which are the database's own. A job's `status` is 0 waiting, 1 held, 2 quarantined. `sum` columns are CRC-32 over the
//! other columns of the row, so that damage is found.

use tokio_postgres::error::SqlState;
use tokio_postgres::{Client, Error};

/// Next hops are divided into so many shards. Never changed: rows have the number of theirs.
pub(crate) const SHARDS: i32 = 1_024;

/// Each brings the schema one version further. Never changed once released; only added to, and so that nodes of the
/// version before, which are still running, can go on.
const MIGRATIONS: [&str; 1] = [VERSION_1];

/// Jobs of one lane are together in each index, in the order in which they are asked for.
const VERSION_1: &str = "
CREATE TABLE message(
    id uuid PRIMARY KEY,
    accepted int8 NOT NULL,
    mail_from text NOT NULL,
    parameters text NOT NULL,
    sender text NOT NULL,
    size int8 NOT NULL,
    body_sum int8 NOT NULL,
    sum int8 NOT NULL,
    body bytea
);
CREATE TABLE job(
    message uuid NOT NULL,
    n int4 NOT NULL,
    shard int4 NOT NULL,
    next_hop text NOT NULL,
    priority int4 NOT NULL,
    turn int8 NOT NULL,
    due int8 NOT NULL,
    alarm int8 NOT NULL,
    expires int8 NOT NULL,
    attempts int8 NOT NULL,
    give_up bool NOT NULL,
    cancelled bool NOT NULL,
    recipients text NOT NULL,
    sum int8 NOT NULL,
    status int8 NOT NULL,
    reason text,
    lease int8 NOT NULL,
    PRIMARY KEY(message, n)
);
CREATE INDEX job_due ON job(shard, next_hop, priority, due, message, n) WHERE status = 0;
CREATE INDEX job_turn ON job(shard, next_hop, priority, turn, due, message, n) WHERE status = 0;
CREATE INDEX job_alarm ON job(shard, next_hop, priority, alarm, message, n) WHERE status = 0;
CREATE INDEX job_status ON job(status) WHERE status <> 0;
CREATE INDEX job_cancelled ON job(message, n) WHERE cancelled;
CREATE TABLE shard(
    id int4 PRIMARY KEY,
    owner text,
    epoch int8 NOT NULL,
    until timestamptz NOT NULL
);
INSERT INTO shard(id, epoch, until) SELECT i, 0, now() FROM generate_series(0, 1023) AS i;
CREATE TABLE node(
    token text PRIMARY KEY,
    name text NOT NULL,
    until timestamptz NOT NULL
);
";

/// The newest schema that is known here.
pub(super) const NEWEST: i64 = 1;

/// What came of bringing the schema up to date.
pub(super) enum Schema {
    /// It is.
    Ready,
    /// It is of a newer version than is known here.
    Newer(i64),
}

/// Makes the schema, or brings it up to date; nodes that start together do it one after the other.
pub(super) async fn migrate(client: &mut Client, name: &str) -> Result<Schema, Error> {
    let mut tries = 0;
    loop {
        match step(client, name).await {
            // Somebody else made the same at the same time.
            Err(error) if tries < 10 && error.code().is_some_and(is_race) => tries += 1,
            done => return done,
        }
    }
}

fn is_race(code: &SqlState) -> bool {
    [
        SqlState::UNIQUE_VIOLATION,
        SqlState::DUPLICATE_SCHEMA,
        SqlState::DUPLICATE_TABLE,
        SqlState::T_R_SERIALIZATION_FAILURE,
        SqlState::T_R_DEADLOCK_DETECTED,
    ]
    .contains(code)
}

async fn step(client: &mut Client, name: &str) -> Result<Schema, Error> {
    let known = client.query_opt("SELECT 1 FROM pg_catalog.pg_namespace WHERE nspname = $1", &[&name]).await?;
    if known.is_none() {
        client.batch_execute(&format!("CREATE SCHEMA IF NOT EXISTS {name}")).await?;
    }
    let sql = "SELECT 1 FROM pg_catalog.pg_tables WHERE schemaname = $1 AND tablename = 'meta'";
    if client.query_opt(sql, &[&name]).await?.is_none() {
        let sql = "CREATE TABLE IF NOT EXISTS meta(one bool PRIMARY KEY CHECK (one), version int8 NOT NULL, \
                   bodies text); \
                   INSERT INTO meta(one, version) VALUES (true, 0) ON CONFLICT DO NOTHING";
        client.batch_execute(sql).await?;
    }
    // Without a lock, which is a commit that a standby is waited for, and which nodes that start together wait for.
    let known = client.query_opt("SELECT version FROM meta WHERE one", &[]).await?;
    match known.map(|row| row.get(0)) {
        Some(NEWEST) => return Ok(Schema::Ready),
        Some(newer) if newer > NEWEST => return Ok(Schema::Newer(newer)),
        _ => {}
    }
    let transaction = client.transaction().await?;
    let version: i64 = transaction.query_one("SELECT version FROM meta WHERE one FOR UPDATE", &[]).await?.get(0);
    if version > NEWEST {
        return Ok(Schema::Newer(version));
    }
    let done = usize::try_from(version).unwrap_or_default();
    for (migration, version) in MIGRATIONS.iter().zip(1_i64..).skip(done) {
        transaction.batch_execute(migration).await?;
        transaction.execute("UPDATE meta SET version = $1 WHERE one", &[&version]).await?;
    }
    transaction.commit().await?;
    Ok(Schema::Ready)
}
