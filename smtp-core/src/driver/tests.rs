//! The driver, the session and the services together, on an in-memory channel with virtual time.

mod early;
mod waiting;

use super::*;
use crate::channel::ChannelInfo;
use crate::service::{BoxError, Outcome, Receipt, Request, Transaction, Verdict};
use crate::session::server::{Session, Step};
use crate::stream::Plain;
use crate::types::{Command, Refusal};
use core::convert::Infallible;
use core::future::Future;
use std::sync::{Mutex, PoisonError};
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};
use tower::{ServiceBuilder, service_fn};

/// What a delivery got: recipients and content.
type Taken = Arc<Mutex<Messages>>;
type Messages = Vec<(usize, Vec<u8>)>;

pub(super) fn accept_all() -> impl Policy + Clone {
    service_fn(async |_: Request| Ok::<_, Infallible>(Verdict::Proceed))
}

pub(super) fn record(taken: &Taken) -> impl Delivery + Clone + use<> {
    let taken = Arc::clone(taken);
    service_fn(move |mut transaction: Transaction| {
        let taken = Arc::clone(&taken);
        async move {
            let n = transaction.envelope.recipients.len();
            let (content, complete) = transaction.body.collect(1 << 20).await?;
            taken.lock().unwrap_or_else(PoisonError::into_inner).push((n, content.to_vec()));
            Ok::<_, BoxError>(Outcome::all(Ok(Receipt::discarded(complete)), n))
        }
    })
}

fn settings() -> Settings {
    Settings::new(Config::new("mx.example".parse().unwrap()))
}

fn start(
    policy: impl Policy,
    delivery: impl Delivery,
    settings: Settings,
) -> (DuplexStream, impl Future<Output = io::Result<()>> + Send, CancellationToken) {
    let (ours, theirs) = tokio::io::duplex(1 << 16);
    let channel = ChannelInfo::memory("test");
    let info = Arc::new(SessionInfo::new(1, channel.clone()));
    let drain = CancellationToken::new();
    let io = Box::new(Plain::new(theirs, channel));
    (ours, serve(io, info, policy, delivery, Arc::new(settings), drain.clone()), drain)
}

/// All that the server says to `input`, which is written in pieces of `piece` octets.
async fn talk(input: &[u8], piece: usize, policy: impl Policy, delivery: impl Delivery, settings: Settings) -> String {
    let (ours, session, _drain) = start(policy, delivery, settings);
    let session = tokio::spawn(session);
    let (mut read, mut write) = tokio::io::split(ours);
    let input = input.to_vec();
    let writer = tokio::spawn(async move {
        for piece in input.chunks(piece) {
            if write.write_all(piece).await.is_err() {
                break;
            }
            tokio::task::yield_now().await;
        }
        let _ = write.shutdown().await;
    });
    let mut said = String::new();
    read.read_to_string(&mut said).await.unwrap();
    writer.await.unwrap();
    let _ = session.await.unwrap();
    said
}

fn codes(said: &str) -> Vec<&str> {
    said.lines().filter(|l| l.as_bytes().get(3) == Some(&b' ')).map(|l| &l[..3]).collect()
}

const CONVERSATION: &[u8] = b"EHLO c.example\r\nMAIL FROM:<a@b.example> SIZE=5\r\nRCPT TO:<c@d.example>\r\nRCPT TO:<\r\n\
RCPT TO:<e@d.example>\r\nDATA\r\n..one\r\ntwo\r\n.\r\nMAIL FROM:<>\r\nRCPT TO:<Postmaster>\r\nBDAT 4\r\nab\r\nBDAT 3 LAST\r\ncd\n\
NOOP\r\nMAIL FROM:<>\r\nRCPT TO:<x@y>\r\nBDAT 4\r\nab\r\nBDAT 4 LAST\r\ncd\r\nBDAT 2\r\nxyRSET\r\nbogus\nx\r\nQUIT\r\n";

#[test]
fn what_is_refused_unasked_is_told_to_whoever_keeps_the_log() {
    let channel = ChannelInfo::memory("test");
    let info = Arc::new(SessionInfo::new(1, channel));
    let mut session = Session::new(Arc::new(Config::new("mx.example".parse().unwrap())), info);
    let mut input = bytes::BytesMut::new();
    let Step::Ask(connect, _) = session.next(&mut input) else { panic!("no greeting") };
    assert!(session.answer(connect, Verdict::Proceed).is_none());
    input.extend_from_slice(b"DATA\r\nXYZZY\r\nMAIL\r\nGET / HTTP/1.1\r\n");
    assert!(matches!(session.next(&mut input), Step::Close));
    let codes: Vec<u16> = session.take_refused().iter().map(|refusal| refusal.reply().code().get()).collect();
    assert_eq!(codes, [503, 500, 501, 421]);
    assert!(session.take_refused().is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_conversation_gives_the_same_replies_at_every_split() {
    let mut first = None::<(String, Messages)>;
    for piece in [CONVERSATION.len(), 1, 2, 3, 5, 7, 11, 64] {
        let taken = Taken::default();
        let said = talk(CONVERSATION, piece, accept_all(), record(&taken), settings()).await;
        let taken = taken.lock().unwrap().clone();
        match &first {
            None => first = Some((said, taken)),
            Some((said_first, taken_first)) => {
                assert_eq!(&said, said_first, "in pieces of {piece}");
                assert_eq!(&taken, taken_first, "in pieces of {piece}");
            }
        }
    }
    let (said, taken) = first.unwrap();
    assert_eq!(
        codes(&said),
        [
            "220", "250", "250", "250", "501", "250", "354", "250", // DATA
            "250", "250", "250", "554", // the LF in the second chunk
            "250", "250", "250", "250", "250", // BDAT
            "503", "250", "500", "221",
        ],
        "{said}"
    );
    assert_eq!(taken, [(2, b".one\r\ntwo\r\n".to_vec()), (1, b"ab\r\ncd\r\n".to_vec())]);
}

#[tokio::test(start_paused = true)]
async fn sixteen_pipelined_recipients_pass_a_limit_of_one() {
    let taken = Taken::default();
    let slow = service_fn(async |request: Request| {
        if matches!(request.command, Command::Rcpt(_)) {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        Ok::<_, Infallible>(Verdict::Proceed)
    });
    let policy = ServiceBuilder::new().concurrency_limit(1).service(slow);
    let mut input = b"EHLO c\r\nMAIL FROM:<a@b>\r\n".to_vec();
    for i in 0..16 {
        input.extend_from_slice(format!("RCPT TO:<r{i}@d>\r\n").as_bytes());
    }
    input.extend_from_slice(b"DATA\r\n.\r\nQUIT\r\n");
    let said = talk(&input, input.len(), policy, record(&taken), settings()).await;
    assert_eq!(codes(&said).len(), 22, "{said}");
    assert_eq!(taken.lock().unwrap()[0].0, 16);
}

#[tokio::test(start_paused = true)]
async fn recipients_are_asked_about_at_the_same_time_and_answered_in_order() {
    let taken = Taken::default();
    let begin = tokio::time::Instant::now();
    // The first takes longest.
    let policy = service_fn(async |request: Request| {
        if let Command::Rcpt(rcpt) = &request.command {
            let n = rcpt.to.to_string().as_bytes()[1] - b'0';
            tokio::time::sleep(Duration::from_secs(u64::from(10 - n))).await;
            if n % 2 == 1 {
                return Ok(Verdict::Refuse(Refusal::new(550, (5, 1, 1), format!("no {n}"))));
            }
        }
        Ok::<_, Infallible>(Verdict::Proceed)
    });
    let input = b"EHLO c\r\nMAIL FROM:<a@b>\r\nRCPT TO:<0@d>\r\nRCPT TO:<1@d>\r\nRCPT TO:<2@d>\r\nRCPT TO:<3@d>\r\nDATA\r\n.\r\nQUIT\r\n";
    let said = talk(input, input.len(), policy, record(&taken), settings()).await;
    assert_eq!(codes(&said), ["220", "250", "250", "250", "550", "250", "550", "354", "250", "221"]);
    assert!(said.find("no 1").unwrap() < said.find("no 3").unwrap());
    assert_eq!(begin.elapsed().as_secs(), 10);
}

#[tokio::test(start_paused = true)]
async fn an_idle_session_holds_no_permit() {
    let policy = ServiceBuilder::new().concurrency_limit(1).service(accept_all());
    let delivery = ServiceBuilder::new().concurrency_limit(1).service(record(&Taken::default()));
    let mut idle = Vec::new();
    for _ in 0..8 {
        let (mut ours, session, _drain) = start(policy.clone(), delivery.clone(), settings());
        tokio::spawn(session);
        let mut line = [0; 64];
        ours.write_all(b"EHLO x\r\nMAIL FROM:<a@b>\r\nRCPT TO:<c@d>\r\n").await.unwrap();
        assert!(ours.read(&mut line).await.unwrap() > 0);
        idle.push(ours);
    }
    let input = b"EHLO c\r\nMAIL FROM:<a@b>\r\nRCPT TO:<0@d>\r\nDATA\r\n.\r\nQUIT\r\n";
    let said = talk(input, input.len(), policy, delivery, settings()).await;
    assert_eq!(codes(&said), ["220", "250", "250", "250", "354", "250", "221"]);
}

#[tokio::test(start_paused = true)]
async fn shed_load_is_refused_before_the_content() {
    let busy = service_fn(async |_: Transaction| {
        core::future::pending::<()>().await;
        Err::<Outcome, BoxError>("never".into())
    });
    let delivery = ServiceBuilder::new().load_shed().concurrency_limit(1).service(busy);
    let (mut first, session, _drain) = start(accept_all(), delivery.clone(), settings());
    tokio::spawn(session);
    first.write_all(b"EHLO c\r\nMAIL FROM:<a@b>\r\nRCPT TO:<0@d>\r\nDATA\r\n").await.unwrap();
    tokio::time::sleep(Duration::from_millis(1)).await;
    let input = b"EHLO c\r\nMAIL FROM:<a@b>\r\nRCPT TO:<0@d>\r\nDATA\r\n";
    let said = talk(input, input.len(), accept_all(), delivery, settings()).await;
    assert_eq!(codes(&said), ["220", "250", "250", "250", "421"], "{said}");
}

#[tokio::test(start_paused = true)]
async fn a_delivery_that_does_not_read_answers_instead_of_354() {
    let no = service_fn(async |t: Transaction| {
        let n = t.envelope.recipients.len();
        Ok::<_, BoxError>(Outcome::all(Err(Refusal::fixed(452, (4, 3, 1), "full")), n))
    });
    let input = b"EHLO c\r\nMAIL FROM:<a@b>\r\nRCPT TO:<0@d>\r\nDATA\r\nMAIL FROM:<a@b>\r\nRCPT TO:<0@d>\r\nBDAT 6 LAST\r\nQUIT\r\nQUIT\r\n";
    let said = talk(input, input.len(), accept_all(), no, settings()).await;
    assert_eq!(codes(&said), ["220", "250", "250", "250", "452", "250", "250", "452", "221"], "{said}");
}

#[tokio::test(start_paused = true)]
async fn a_delivery_that_gives_up_midway_has_the_rest_swallowed() {
    let gives_up = service_fn(async |mut t: Transaction| {
        let _ = t.body.next().await;
        let n = t.envelope.recipients.len();
        Ok::<_, BoxError>(Outcome::all(Err(Refusal::fixed(554, (5, 7, 1), "bad")), n))
    });
    let input = b"EHLO c\r\nMAIL FROM:<a@b>\r\nRCPT TO:<0@d>\r\nDATA\r\nQUIT\r\nRSET\r\n.\r\nNOOP\r\nQUIT\r\n";
    for piece in [input.len(), 1] {
        let said = talk(input, piece, accept_all(), gives_up, settings()).await;
        assert_eq!(codes(&said), ["220", "250", "250", "250", "354", "554", "250", "221"], "{said}");
    }
}

#[tokio::test(start_paused = true)]
async fn ten_thousand_commands_in_one_write_are_bounded() {
    let taken = Taken::default();
    let input = b"NOOP\r\n".repeat(10_000);
    let said = talk(&input, input.len(), accept_all(), record(&taken), settings()).await;
    assert!(said.lines().count() < 200);
    assert!(said.lines().last().unwrap().starts_with("421 4.7.0"), "{said}");
}

#[tokio::test(start_paused = true)]
async fn silence_has_a_deadline_in_each_phase() {
    for (input, seconds) in [
        (&b""[..], 300),
        (b"EHLO x\r\n", 300),
        (b"EHLO x\r\nMAIL FROM:<a@b>\r\nRCPT TO:<c@d>\r\nDATA\r\n", 180),
        (b"EHLO x\r\nMAIL FROM:<a@b>\r\nRCPT TO:<c@d>\r\nBDAT 9\r\nx", 180),
    ] {
        let (mut ours, session, _drain) = start(accept_all(), record(&Taken::default()), settings());
        let session = tokio::spawn(session);
        let begin = tokio::time::Instant::now();
        ours.write_all(input).await.unwrap();
        let mut said = String::new();
        ours.read_to_string(&mut said).await.unwrap();
        assert!(said.lines().last().unwrap().starts_with("421 4.4.2"), "{said}");
        assert_eq!(begin.elapsed().as_secs(), seconds);
        drop(ours);
        session.await.unwrap().unwrap();
    }
}

#[tokio::test(start_paused = true)]
async fn content_in_drops_is_ended() {
    let (mut ours, session, _drain) = start(accept_all(), record(&Taken::default()), settings());
    tokio::spawn(session);
    ours.write_all(b"EHLO x\r\nMAIL FROM:<a@b>\r\nRCPT TO:<c@d>\r\nDATA\r\n").await.unwrap();
    let begin = tokio::time::Instant::now();
    while ours.write_all(b"x").await.is_ok() {
        tokio::time::sleep(Duration::from_secs(10)).await;
        assert!(begin.elapsed().as_secs() < 600);
    }
    let mut said = String::new();
    ours.read_to_string(&mut said).await.unwrap();
    assert!(said.contains("421 4.4.2"), "{said}");
}

#[tokio::test(start_paused = true)]
async fn a_drain_does_not_wait_for_an_idle_client_to_look_at_its_socket() {
    let (ours, session, drain) = start(accept_all(), record(&Taken::default()), settings());
    let session = tokio::spawn(session);
    tokio::time::sleep(Duration::from_secs(60)).await;
    let begin = tokio::time::Instant::now();
    drain.cancel();
    session.await.unwrap().unwrap();
    assert!(begin.elapsed() <= Duration::from_secs(1), "{:?}", begin.elapsed());
    drop(ours);
}

#[tokio::test(start_paused = true)]
async fn a_drain_waits_for_the_open_transaction_only() {
    let taken = Taken::default();
    let (mut ours, session, drain) = start(accept_all(), record(&taken), settings());
    let session = tokio::spawn(session);
    ours.write_all(b"EHLO x\r\nMAIL FROM:<a@b>\r\nRCPT TO:<c@d>\r\n").await.unwrap();
    tokio::time::sleep(Duration::from_millis(1)).await;
    drain.cancel();
    tokio::time::sleep(Duration::from_millis(1)).await;
    ours.write_all(b"DATA\r\nx\r\n.\r\n").await.unwrap();
    let mut said = String::new();
    ours.read_to_string(&mut said).await.unwrap();
    assert_eq!(codes(&said), ["220", "250", "250", "250", "354", "250", "421"], "{said}");
    drop(ours);
    session.await.unwrap().unwrap();
    assert_eq!(taken.lock().unwrap().len(), 1);

    let (mut idle, session, drain) = start(accept_all(), record(&taken), settings());
    tokio::spawn(session);
    tokio::time::sleep(Duration::from_millis(1)).await;
    drain.cancel();
    let mut said = String::new();
    idle.read_to_string(&mut said).await.unwrap();
    assert_eq!(codes(&said), ["220", "421"]);

    // Who comes late has said everything already, and begins nothing with it.
    let (mut late, session, drain) = start(accept_all(), record(&taken), settings());
    drain.cancel();
    late.write_all(b"EHLO x\r\nMAIL FROM:<a@b>\r\nRCPT TO:<c@d>\r\nBDAT 3 LAST\r\nx\r\n").await.unwrap();
    tokio::spawn(session);
    let mut said = String::new();
    late.read_to_string(&mut said).await.unwrap();
    assert_eq!(codes(&said), ["220", "421"], "{said}");
    assert_eq!(taken.lock().unwrap().len(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_cut_at_every_octet_delivers_nothing_half() {
    let input = b"EHLO x\r\nMAIL FROM:<a@b>\r\nRCPT TO:<c@d>\r\nBDAT 4\r\nab\r\nBDAT 4 LAST\r\ncd\r\n";
    for cut in 0..=input.len() {
        let taken = Taken::default();
        let said = talk(&input[..cut], cut.max(1), accept_all(), record(&taken), settings()).await;
        let taken = taken.lock().unwrap();
        assert_eq!(taken.len(), usize::from(cut == input.len()), "cut at {cut}: {said}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_session_dropped_at_any_await_leaves_nothing_behind() {
    // Each turn lets the session run one poll further before it is dropped.
    for polls in 0..60 {
        let taken = Taken::default();
        let (mut ours, session, _drain) = start(accept_all(), record(&taken), settings());
        ours.write_all(&CONVERSATION[..150]).await.unwrap();
        let mut session = Box::pin(session);
        for _ in 0..polls {
            let done = core::future::poll_fn(|cx| core::task::Poll::Ready(session.as_mut().poll(cx).is_ready())).await;
            if done {
                break;
            }
        }
        drop(session);
        // The other end sees the end, never a hang.
        let mut rest = Vec::new();
        ours.read_to_end(&mut rest).await.unwrap();
    }
}

#[tokio::test(start_paused = true)]
async fn a_commit_that_takes_too_long_goes_on_by_itself() {
    let taken = Taken::default();
    let done = Arc::clone(&taken);
    let slow = service_fn(move |mut t: Transaction| {
        let done = Arc::clone(&done);
        async move {
            let (content, complete) = t.body.collect(100).await?;
            tokio::time::sleep(Duration::from_secs(1_000)).await;
            done.lock().unwrap_or_else(PoisonError::into_inner).push((1, content.to_vec()));
            Ok::<_, BoxError>(Outcome::all(Ok(Receipt::discarded(complete)), 1))
        }
    });
    let input = b"EHLO c\r\nMAIL FROM:<a@b>\r\nRCPT TO:<0@d>\r\nDATA\r\nx\r\n.\r\nQUIT\r\n";
    let begin = tokio::time::Instant::now();
    let said = talk(input, input.len(), accept_all(), slow, settings()).await;
    assert_eq!(codes(&said), ["220", "250", "250", "250", "354", "451", "221"], "{said}");
    assert_eq!(begin.elapsed().as_secs(), 480);
    tokio::time::sleep(Duration::from_secs(600)).await;
    assert_eq!(taken.lock().unwrap().len(), 1);
}

/// Each call is made in the place of the one before it, however that ended.
#[tokio::test(start_paused = true)]
async fn a_message_is_taken_behind_one_that_was_broken_off_refused_or_too_slow() {
    let taken = Taken::default();
    let log = Arc::clone(&taken);
    let delivery = service_fn(move |mut t: Transaction| {
        let log = Arc::clone(&log);
        async move {
            let (content, complete) = t.body.collect(100).await?;
            match &content[..] {
                b"slow" => tokio::time::sleep(Duration::from_secs(3_600)).await,
                b"bad!" => return Err("no".into()),
                _ => {}
            }
            log.lock().unwrap().push((1, content.to_vec()));
            Ok::<_, BoxError>(Outcome::all(Ok(Receipt::discarded(complete)), 1))
        }
    });
    let message = |rest: &str| format!("MAIL FROM:<a@b>\r\nRCPT TO:<c@d>\r\n{rest}");
    let broken_off = message("BDAT 4\r\nhalfRSET\r\n");
    let whole = |content: &str| message(&format!("BDAT 4 LAST\r\n{content}"));
    let first = ["EHLO c\r\n".to_owned(), broken_off, whole("one.")];
    let rest = [whole("slow"), whole("two."), whole("bad!"), whole("tri."), "QUIT\r\n".to_owned()];
    let input = [first.concat(), rest.concat()].concat();
    let said = talk(input.as_bytes(), input.len(), accept_all(), delivery, settings()).await;
    let (fine, late) = (["250"; 3], ["250", "250", "451"]);
    let all = [&["220", "250"][..], &["250"; 4], &fine, &late, &fine, &late, &fine, &["221"]].concat();
    assert_eq!(codes(&said), all, "{said}");
    let taken: Vec<_> = taken.lock().unwrap().iter().map(|(_, content)| content.clone()).collect();
    assert_eq!(taken, [b"one.", b"two.", b"tri."]);
}

/// Takes a message for one recipient, and so many milliseconds for it.
fn slow(millis: u64) -> impl Delivery {
    service_fn(move |mut t: Transaction| async move {
        let (_, complete) = t.body.collect(100).await?;
        tokio::time::sleep(Duration::from_millis(millis)).await;
        Ok::<_, BoxError>(Outcome::all(Ok(Receipt::discarded(complete)), 1))
    })
}

#[tokio::test(start_paused = true)]
async fn replies_leave_with_that_to_the_message_unless_it_takes_long() {
    for (took, at_first) in [(5, &["250", "250", "250"][..]), (1_000, &["250", "250"])] {
        let (mut ours, session, _drain) = start(accept_all(), slow(took), settings());
        tokio::spawn(session);
        let mut said = [0; 1024];
        ours.write_all(b"EHLO c\r\n").await.unwrap();
        assert!(ours.read(&mut said).await.unwrap() > 0);
        let begin = tokio::time::Instant::now();
        ours.write_all(b"MAIL FROM:<a@b>\r\nRCPT TO:<c@d>\r\nBDAT 3 LAST\r\nx\r\n").await.unwrap();
        let n = ours.read(&mut said).await.unwrap();
        assert_eq!(codes(core::str::from_utf8(&said[..n]).unwrap()), at_first);
        assert!(begin.elapsed() < Duration::from_millis(50), "{:?}", begin.elapsed());
        if took > 50 {
            let n = ours.read(&mut said).await.unwrap();
            assert_eq!(codes(core::str::from_utf8(&said[..n]).unwrap()), ["250"]);
            assert_eq!(begin.elapsed().as_millis(), u128::from(took));
        }
    }
}

#[tokio::test(start_paused = true)]
async fn the_reply_to_a_message_waits_for_no_other_message() {
    let (mut ours, session, _drain) = start(accept_all(), slow(15), settings());
    tokio::spawn(session);
    let mut said = [0; 1024];
    ours.write_all(b"EHLO c\r\n").await.unwrap();
    assert!(ours.read(&mut said).await.unwrap() > 0);
    let begin = tokio::time::Instant::now();
    ours.write_all(&b"MAIL FROM:<a@b>\r\nRCPT TO:<c@d>\r\nBDAT 3 LAST\r\nx\r\n".repeat(2)).await.unwrap();
    for (replies, millis) in [(5, 15), (1, 30)] {
        let n = ours.read(&mut said).await.unwrap();
        assert_eq!(codes(core::str::from_utf8(&said[..n]).unwrap()).len(), replies);
        assert_eq!(begin.elapsed().as_millis(), millis);
    }
}

#[tokio::test(start_paused = true)]
async fn size_is_enforced_in_mid_stream() {
    let mut small = settings();
    let mut config = (*small.session).clone();
    config.limits.message_size = 1_000;
    small.session = Arc::new(config);
    let line = b"0123456789012345678901234567890123456789\r\n";
    let mut over = b"EHLO x\r\nMAIL FROM:<a@b>\r\nRCPT TO:<c@d>\r\nDATA\r\n".to_vec();
    over.extend_from_slice(&line.repeat(40));
    over.extend_from_slice(b".\r\nMAIL FROM:<a@b>\r\nRCPT TO:<c@d>\r\nBDAT 1001\r\n");
    over.extend_from_slice(&[b'x'; 1001]);
    over.extend_from_slice(b"BDAT 3 LAST\r\nabcRSET\r\nMAIL FROM:<a@b> SIZE=1001\r\nQUIT\r\n");
    for piece in [over.len(), 1] {
        let taken = Taken::default();
        let said = talk(&over, piece, accept_all(), record(&taken), small.clone()).await;
        assert_eq!(
            codes(&said),
            ["220", "250", "250", "250", "354", "552", "250", "250", "552", "503", "250", "552", "221"],
            "{said}"
        );
        assert!(taken.lock().unwrap().is_empty());
    }
    // Who goes on for ever is told, and cut off.
    let mut endless = b"EHLO x\r\nMAIL FROM:<a@b>\r\nRCPT TO:<c@d>\r\nDATA\r\n".to_vec();
    endless.extend_from_slice(&line.repeat(100));
    let said = talk(&endless, 64, accept_all(), record(&Taken::default()), small.clone()).await;
    assert!(said.lines().last().unwrap().starts_with("552 5.3.4"), "{said}");
    let chunk = b"EHLO x\r\nMAIL FROM:<a@b>\r\nRCPT TO:<c@d>\r\nBDAT 99999999999\r\nxxxxxxxxx".to_vec();
    let mut chunk = chunk;
    chunk.extend_from_slice(&[b'x'; 5_000]);
    let said = talk(&chunk, 64, accept_all(), record(&Taken::default()), small).await;
    assert!(said.lines().last().unwrap().starts_with("552 5.3.4"), "{said}");
}

#[tokio::test(start_paused = true)]
async fn lmtp_is_not_spoken_on_port_25() {
    let mut config = Config::new("mx.example".parse().unwrap());
    config.protocol = crate::session::server::Protocol::Lmtp;
    let settings = Arc::new(Settings::new(config));
    for (port, start) in [(25, "421 4.3.5 "), (2424, "220 ")] {
        let (mut ours, theirs) = tokio::io::duplex(4096);
        let local = Some(([192, 0, 2, 1], port).into());
        let channel = ChannelInfo { local, ..ChannelInfo::memory("test") };
        let info = Arc::new(SessionInfo::new(1, channel.clone()));
        let io = Box::new(Plain::new(theirs, channel));
        let delivery = record(&Taken::default());
        let session = tokio::spawn(serve(io, info, accept_all(), delivery, Arc::clone(&settings), Default::default()));
        ours.write_all(b"QUIT\r\n").await.unwrap();
        let mut said = String::new();
        ours.read_to_string(&mut said).await.unwrap();
        assert!(said.starts_with(start), "{said}");
        assert!(port != 25 || (said.contains("another port") && said.lines().count() == 1), "{said}");
        session.await.unwrap().unwrap();
    }
}
