//! What is asked of the database.

/// The columns that make a job and its message, for [`super::read::row`].
macro_rules! columns {
    () => {
        "j.message, j.n, j.shard, j.next_hop, j.priority, j.turn, j.due, j.alarm, j.expires, j.attempts, j.give_up, \
         j.cancelled, j.recipients, j.sum, j.status, j.reason, j.lease, \
         m.id, m.accepted, m.mail_from, m.parameters, m.sender, m.size, m.body_sum, m.sum, m.body IS NULL"
    };
}

/// Jobs of lanes in shards, so many of each: by which time, and with which other condition.
macro_rules! jobs_of_lanes {
    ($time:literal, $more:literal) => {
        concat!(
            "SELECT w.place, j.",
            $time,
            ", ",
            columns!(),
            " FROM unnest($1::int4[], $2::text[], $3::int4[]) WITH ORDINALITY AS w(shard, next_hop, priority, place) \
             CROSS JOIN LATERAL (SELECT * FROM job WHERE job.shard = w.shard AND job.next_hop = w.next_hop \
             AND job.priority = w.priority AND job.status = 0 AND job.",
            $time,
            " <= $4 ",
            $more,
            " ORDER BY job.",
            $time,
            ", job.message, job.n LIMIT $5) AS j LEFT JOIN message AS m ON m.id = j.message"
        )
    };
}

/// Only times and ids of the first jobs of lanes in shards.
macro_rules! first_of_lanes {
    ($time:literal) => {
        concat!(
            "SELECT w.place, j.",
            $time,
            ", j.message, j.n \
             FROM unnest($1::int4[], $2::text[], $3::int4[]) WITH ORDINALITY AS w(shard, next_hop, priority, place) \
             CROSS JOIN LATERAL (SELECT job.",
            $time,
            ", job.message, job.n FROM job WHERE job.shard = w.shard AND job.next_hop = w.next_hop \
             AND job.priority = w.priority AND job.status = 0 ORDER BY job.",
            $time,
            ", job.message, job.n LIMIT $4) AS j"
        )
    };
}

pub(super) const DUE: &str = jobs_of_lanes!("due", "");
pub(super) const DUE_OF: &str = jobs_of_lanes!("due", "AND job.turn = $6");
pub(super) const ALARMS: &str = jobs_of_lanes!("alarm", "");
pub(super) const FIRST_DUE: &str = first_of_lanes!("due");
pub(super) const FIRST_ALARM: &str = first_of_lanes!("alarm");

pub(super) const NEXT_TURN: &str = "\
    SELECT min(t.turn) FROM unnest($1::int4[]) AS w(shard) CROSS JOIN LATERAL \
    (SELECT job.turn FROM job WHERE job.shard = w.shard AND job.next_hop = $2 AND job.priority = $3 AND job.status = 0 \
    AND job.turn > $4 ORDER BY job.turn LIMIT 1) AS t";

/// Jumps from lane to lane, whatever the number of jobs in each.
pub(super) const LANES: &str = "\
    WITH RECURSIVE lane AS (\
    (SELECT j.shard, j.next_hop, j.priority, j.due FROM job AS j WHERE j.status = 0 \
    ORDER BY j.shard, j.next_hop, j.priority, j.due LIMIT 1) \
    UNION ALL SELECT n.shard, n.next_hop, n.priority, n.due FROM lane AS l CROSS JOIN LATERAL \
    (SELECT j.shard, j.next_hop, j.priority, j.due FROM job AS j WHERE j.status = 0 \
    AND (j.shard, j.next_hop, j.priority) > (l.shard, l.next_hop, l.priority) \
    ORDER BY j.shard, j.next_hop, j.priority, j.due LIMIT 1) AS n) \
    SELECT l.shard, l.next_hop, l.priority, l.due, a.alarm FROM lane AS l CROSS JOIN LATERAL \
    (SELECT j.alarm FROM job AS j WHERE j.shard = l.shard AND j.next_hop = l.next_hop AND j.priority = l.priority \
    AND j.status = 0 ORDER BY j.alarm LIMIT 1) AS a";

pub(super) const LOCK: &str = "SELECT id FROM message WHERE id = ANY($1::uuid[]) ORDER BY id FOR UPDATE";

/// Shards that are ours; nobody takes them before the commit.
pub(super) const RIGHTS: &str =
    "SELECT id, epoch FROM shard WHERE id = ANY($1::int4[]) AND owner = $2 ORDER BY id FOR SHARE";

pub(super) const JOBS_OF: &str = concat!(
    "SELECT ",
    columns!(),
    " FROM job AS j LEFT JOIN message AS m ON m.id = j.message WHERE j.message = ANY($1::uuid[])"
);

pub(super) const JOBS: &str = concat!(
    "SELECT ",
    columns!(),
    " FROM unnest($1::uuid[], $2::int4[]) AS w(message, n) JOIN job AS j ON j.message = w.message AND j.n = w.n \
     LEFT JOIN message AS m ON m.id = j.message"
);

pub(super) const MESSAGE: &str =
    "SELECT id, accepted, mail_from, parameters, sender, size, body_sum, sum, body IS NULL FROM message WHERE id = $1";

pub(super) const SCAN: &str =
    "SELECT message, n FROM job WHERE (message, n) > ($1, $2) AND message <= $3 ORDER BY message, n LIMIT $4";

pub(super) const STATS: &str = "\
    SELECT (SELECT count(*) FROM message), (SELECT count(*) FROM job), \
    (SELECT count(*) FROM job WHERE status = 1 AND status <> 0), \
    (SELECT count(*) FROM job WHERE status = 2 AND status <> 0)";
