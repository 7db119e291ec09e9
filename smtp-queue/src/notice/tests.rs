use super::*;
use crate::kit::at;
use crate::queue::ByDomain;
use crate::{JobId, RecipientState};
use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use proptest::prelude::*;
use smtp_core::types::Mailbox;

/// A notice about mail from jo@a.example: what MAIL and RCPT asked, to whom, the last answer, what is returned.
fn made(kind: Kind, asked: [&str; 2], to: &str, last: Option<String>, original: Original<'_>) -> NewNotice {
    made_for("jo@a.example", kind, asked, to, last, original)
}

fn made_for(
    from: &str,
    kind: Kind,
    [mail, rcpt]: [&str; 2],
    to: &str,
    last: Option<String>,
    original: Original<'_>,
) -> NewNotice {
    let from = Mailbox::new(from).unwrap();
    let id = crate::id::Ids::after(0).next(at(0));
    let mail = Mail { from: from.into(), parameters: Parameters::new(mail).unwrap() };
    let message = Message { id, accepted: at(0), mail, sender: "jo".into(), size: 9 };
    let rcpt = Rcpt { to: Mailbox::new(to).unwrap().into(), parameters: Parameters::new(rcpt).unwrap() };
    let envelope = Envelope { mail: message.mail.clone(), recipients: vec![rcpt] };
    let new = new_message(envelope, "jo".into(), &ByDomain, &Schedule::default(), at(0));
    let mut job = new.jobs.into_iter().next().unwrap().into_job(JobId { message: id, n: 0 }, 1);
    (job.recipients[0].last, job.recipients[0].state) = (last, RecipientState::Failed);
    let recipients: Vec<_> = job.recipients.iter().collect();
    let about = About { kind, message: &message, job: &job, recipients: &recipients, original, now: at(60) };
    let dsn = Dsn::new("mx.example".parse().unwrap(), Arc::new(ByDomain), Schedule::default());
    dsn.notice(&about).unwrap()
}

fn text(notice: &NewNotice) -> &str {
    std::str::from_utf8(&notice.body).unwrap()
}

/// The parts between the boundaries.
fn parts(text: &str) -> Vec<&str> {
    let (_, rest) = text.split_once("boundary=\"").unwrap();
    let (boundary, body) = rest.split_once("\"\r\n\r\n").unwrap();
    let body = body.strip_suffix(&format!("\r\n--{boundary}--\r\n")).unwrap();
    let first = format!("--{boundary}\r\n");
    body.strip_prefix(&first).unwrap().split(&format!("\r\n{first}")).collect()
}

fn unknown() -> Option<String> {
    Some("550 5.1.1 no such mailbox".to_owned())
}

#[test]
fn what_the_sender_asked_for_comes_back() {
    let parameters = ["ENVID=QQ+2B314 BY=3600;R", "ORCPT=rfc822;list+2Bx@c.example"];
    let notice = made(Kind::Failed, parameters, "x@b.example", unknown(), Original::Header(b"Subject: hi\r\n"));
    let text = text(&notice);
    let [human, status, header] = parts(text)[..] else { panic!("{text}") };
    assert!(human.contains("x@b.example") && human.contains("550 5.1.1 no such mailbox"));
    assert!(status.starts_with("Content-Type: message/delivery-status\r\n\r\nReporting-MTA: dns; mx.example\r\n"));
    assert!(status.contains(
        "\r\nOriginal-Envelope-Id: QQ+314\r\nArrival-Date: Fri, 15 Jan 2027 08:00:00 +0000\r\n\
         Deliver-By-Date: Fri, 15 Jan 2027 09:00:00 +0000\r\n"
    ));
    assert!(status.contains(
        "\r\n\r\nOriginal-Recipient: rfc822; list+x@c.example\r\nFinal-Recipient: rfc822; x@b.example\r\nAction: failed\r\nStatus: 5.1.1\r\n"
    ));
    assert!(header.starts_with("Content-Type: text/rfc822-headers\r\n") && header.ends_with("Subject: hi\r\n"));
    assert_eq!(notice.message.mail.from, ReversePath::Null);
    assert_eq!(notice.message.jobs[0].next_hop.as_str(), "a.example");
    assert!(notice.message.mail.parameters.is_empty());
    assert_eq!(notice.message.jobs[0].recipients[0].parameters.as_str(), "NOTIFY=NEVER");
}

/// The content of a part in base64.
fn decoded(part: &str) -> String {
    let (head, body) = part.split_once("\r\n\r\n").unwrap();
    assert!(head.ends_with("\r\nContent-Transfer-Encoding: base64"), "{head}");
    assert!(body.lines().all(|line| line.len() <= 76), "{body}");
    String::from_utf8(BASE64_STANDARD.decode(body.replace("\r\n", "")).unwrap()).unwrap()
}

#[test]
fn a_sender_in_us_ascii_can_read_of_an_international_address() {
    let notice = made(Kind::Delayed, ["SMTPUTF8", ""], "j\u{f6}@b.example", None, Original::Header(b""));
    let [human, status, _] = parts(text(&notice))[..] else { panic!("{}", text(&notice)) };
    assert!(decoded(human).contains("\r\n  <j\u{f6}@b.example>\r\n"));
    assert!(status.starts_with("Content-Type: message/delivery-status\r\n\r\n"));
    assert!(
        status.contains("Final-Recipient: utf-8; j\\x{F6}@b.example\r\nAction: delayed\r\nStatus: 4.0.0\r\n"),
        "{status}"
    );
    // Any server takes it.
    assert!(notice.body.is_ascii() && notice.message.mail.parameters.is_empty());
    // One whose other form has more than 500 octets.
    let long = format!("{}@b.example", "\u{f6}".repeat(120));
    let notice = made(Kind::Delayed, ["SMTPUTF8", ""], &long, None, Original::Header(b""));
    assert!(notice.body.is_ascii() && text(&notice).contains("Final-Recipient: utf-8; ??"), "{}", text(&notice));
}

#[test]
fn an_international_sender_gets_an_international_notice() {
    let header = Original::Header("Subject: gr\u{fc}n\r\n".as_bytes());
    let notice = made_for("j\u{f6}@a.example", Kind::Failed, ["SMTPUTF8", ""], "\u{e4}@b.example", unknown(), header);
    let text = text(&notice);
    assert!(text.contains("\r\nContent-Transfer-Encoding: 8bit\r\nContent-Type: multipart/report; "), "{text}");
    let [_, status, header] = parts(text)[..] else { panic!("{text}") };
    assert!(
        status.starts_with("Content-Type: message/global-delivery-status\r\nContent-Transfer-Encoding: 8bit\r\n\r\n")
    );
    assert!(status.contains("Final-Recipient: utf-8; \u{e4}@b.example\r\n"), "{status}");
    assert!(header.starts_with("Content-Type: message/global-headers\r\nContent-Transfer-Encoding: 8bit\r\n"));
    assert!(header.ends_with("Subject: gr\u{fc}n\r\n"));
    assert!(notice.message.mail.parameters.value("SMTPUTF8").is_some());
}

#[test]
fn an_international_header_comes_back_to_those_who_sent_one() {
    let header = Original::Header("Subject: gr\u{fc}n\r\n".as_bytes());
    let notice = made(Kind::Failed, ["SMTPUTF8", ""], "x@b.example", unknown(), header);
    let part = parts(text(&notice))[2];
    assert!(part.starts_with("Content-Type: message/global-headers\r\n"), "{part}");
    assert_eq!(decoded(part), "Subject: gr\u{fc}n\r\n");
    assert!(notice.message.mail.parameters.is_empty());
    // Nobody else has to be able to read it.
    let notice = made(Kind::Failed, ["", ""], "x@b.example", unknown(), header);
    assert!(text(&notice).contains("Subject: gr?n\r\n") && notice.message.mail.parameters.is_empty());
    // An original address in the form that is for everybody stays in it.
    let orcpt = ["", "ORCPT=utf-8;j\\x{F6}@c.example"];
    let notice = made(Kind::Failed, orcpt, "x@b.example", unknown(), Original::Header(b""));
    assert!(text(&notice).contains("\r\nOriginal-Recipient: utf-8; j\\x{F6}@c.example\r\n"), "{}", text(&notice));
}

#[test]
fn the_whole_message_comes_back_if_it_fits() {
    let message = b"Subject: hi\r\n\r\nthe content\r\n";
    let notice = made(Kind::Failed, ["RET=FULL", ""], "x@b.example", unknown(), Original::Whole(message));
    let part = parts(text(&notice))[2];
    assert!(part.starts_with("Content-Type: message/rfc822\r\nContent-Transfer-Encoding: 7bit\r\n\r\nSubject: hi\r\n"));
    assert!(part.ends_with("the content\r\n") && notice.message.mail.parameters.is_empty());

    let eight = "Subject: hi\r\n\r\ngr\u{fc}n\r\n".as_bytes();
    let notice = made(Kind::Failed, ["RET=FULL BODY=8BITMIME", ""], "x@b.example", unknown(), Original::Whole(eight));
    let part = parts(text(&notice))[2];
    assert!(part.starts_with("Content-Type: message/global\r\n"), "{part}");
    assert_eq!(decoded(part).as_bytes(), eight);
    assert!(notice.message.mail.parameters.is_empty());

    // From the largest that fits to one that does not, no notice is larger than a spool takes.
    for size in (NOTICE_MAX - 3_000..NOTICE_MAX + 10).step_by(97) {
        let large = [&b"Subject: hi\r\n\r\n"[..], &vec![b'x'; size]].concat();
        let notice = made(Kind::Failed, ["RET=FULL", ""], "x@b.example", unknown(), Original::Whole(&large));
        assert!(notice.body.len() <= NOTICE_MAX, "{} octets", notice.body.len());
        let part = parts(text(&notice))[2];
        assert!(part.ends_with("xx") || part.ends_with("\r\n\r\nSubject: hi\r\n"), "{size}");
    }
    for size in (NOTICE_MAX * 7 / 10..NOTICE_MAX * 3 / 4).step_by(397) {
        let large = [&b"Subject: hi\r\n\r\n"[..], &vec![0xFC; size]].concat();
        let notice = made(Kind::Failed, ["RET=FULL", ""], "x@b.example", unknown(), Original::Whole(&large));
        assert!(notice.body.len() <= NOTICE_MAX && notice.body.is_ascii(), "{} octets", notice.body.len());
    }
}

#[test]
fn success_is_told_in_its_own_words() {
    let last = Some("250 2.1.5 stored".to_owned());
    let notify = ["ENVID=7", "NOTIFY=SUCCESS"];
    let kinds = [(Kind::Delivered, "delivered"), (Kind::Relayed, "relayed"), (Kind::Expanded, "expanded")];
    for (kind, action) in kinds {
        let notice = made(kind, notify, "x@b.example", last.clone(), Original::Header(b"Subject: hi\r\n"));
        let status = parts(text(&notice))[1];
        assert!(status.contains(&format!("Action: {action}\r\nStatus: 2.1.5\r\n")), "{status}");
        assert!(!status.contains("Diagnostic-Code"), "{status}");
    }
}

#[test]
fn what_must_not_go_in_clear_comes_back_so_too() {
    let notice = made(Kind::Failed, ["REQUIRETLS", ""], "x@b.example", unknown(), Original::Header(b""));
    assert_eq!(notice.message.mail.parameters.as_str(), "REQUIRETLS");
}

proptest! {
    #[test]
    fn nothing_hostile_breaks_its_form(last in ".{0,1200}", header in proptest::collection::vec(any::<u8>(), 0..3_000)) {
        let last = Some(crate::job::answer(smtp_core::types::printable(last.as_bytes())));
        let notice = made(Kind::Failed, ["", ""], "x@b.example", last, Original::Header(&header));
        let text = text(&notice);
        prop_assert_eq!(parts(text).len(), 3);
        prop_assert!(text.is_ascii());
        prop_assert!(!text.replace("\r\n", "").contains(['\r', '\n', '\0']));
        prop_assert!(text.split("\r\n").all(|line| line.len() <= 998), "a line is too long");
        prop_assert_eq!(text.matches("Final-Recipient: ").count() - parts(text)[2].matches("Final-Recipient: ").count(), 1);
    }
}
