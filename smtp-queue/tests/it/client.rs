//! The pooled client as the delivery of a next hop: what it says is understood.

use std::time::Duration;

use async_trait::async_trait;
use smtp_client::{Client, Settings as ClientSettings};
use smtp_core::stream::{ConnectError, ConnectStep, Connection, Connector, Target, TlsPolicy};
use smtp_queue::{BoxDelivery, NextHop, RecipientState, Settings};
use smtp_test::scenario::Scenario;
use smtp_test::server::ScriptedServer;

use crate::rig::Rig;

const MAIL: &str = "Subject: x\r\n\r\nx\r\n";
const GREETING: &str = "S: 220 mx.example ESMTP\nC: EHLO *\nS: 250-mx.example\nS: 250 PIPELINING\n";

fn target() -> Target {
    Target::host("b.example".parse().unwrap(), 25)
}

fn through(client: &Client) -> impl Fn(&NextHop) -> BoxDelivery + Send + Sync + 'static {
    let client = client.clone();
    move |_| BoxDelivery::new(client.clone())
}

#[tokio::test(start_paused = true)]
async fn replies_are_settled_for_each_recipient() {
    let script = format!(
        "{GREETING}C: MAIL FROM:<jo@a.example>\nC: RCPT TO:<x@b.example>\nC: RCPT TO:<y@b.example>\nC: RCPT TO:<z@b.example>\n\
         C: DATA\nS: 250 2.1.0 ok\nS: 250 2.1.5 ok\nS: 550 5.1.1 no such mailbox\nS: 451 4.7.1 greylisted\n\
         S: 354 go\nC: Subject: x\nC: \nC: x\nC: .\nS: 250 2.0.0 taken\n"
    );
    let server = ScriptedServer::start(vec![Scenario::parse("mixed", &script).unwrap()]);
    let client = Client::new(server.connector(), target(), ClientSettings::default());
    let rig = Rig::start(Settings::default());
    rig.world.delegate("b.example", through(&client));
    rig.send("jo@a.example", &["x@b.example", "y@b.example", "z@b.example"], MAIL).await.unwrap();
    tokio::time::sleep(Duration::from_secs(5)).await;
    let page = rig.spool.list(&smtp_queue::Filter::default(), None, 10).await.unwrap();
    let [entry] = &page.entries[..] else { panic!("{page:?}") };
    let states: Vec<_> =
        entry.job.recipients.iter().map(|r| (r.state, r.last.as_deref().unwrap_or_default())).collect();
    assert_eq!(
        states,
        [
            (RecipientState::Delivered, "250 2.0.0 taken"),
            (RecipientState::Failed, "550 5.1.1 no such mailbox"),
            (RecipientState::Waiting, "451 4.7.1 greylisted"),
        ]
    );
    assert_eq!(entry.job.attempts, 1);
    assert_eq!(rig.world.taken("a.example").len(), 1, "one bounce");
    rig.stop().await;
}

/// Every connection fails.
struct Unreachable;

#[async_trait]
impl Connector for Unreachable {
    async fn connect(&self, target: &Target, _: &TlsPolicy) -> Result<Box<dyn Connection>, ConnectError> {
        let refused = std::io::ErrorKind::ConnectionRefused.into();
        Err(ConnectError::transient(&target.address, ConnectStep::Connect, refused))
    }
}

#[tokio::test(start_paused = true)]
async fn a_connection_that_fails_and_a_server_that_turns_away_are_a_dead_next_hop() {
    let busy = Scenario::parse("busy", "S: 421 4.3.2 mx.example too busy\nS!\n").unwrap();
    let server = ScriptedServer::start(vec![busy]);
    let clients = [
        Client::new(Unreachable, target(), ClientSettings::default()),
        Client::new(server.connector(), target(), ClientSettings::default()),
    ];
    for client in clients {
        let rig = Rig::start(Settings::default());
        rig.world.delegate("b.example", through(&client));
        rig.send("jo@a.example", &["x@b.example"], MAIL).await.unwrap();
        tokio::time::sleep(Duration::from_secs(5)).await;
        let hop = rig.hops.get(&NextHop::new("b.example").unwrap()).unwrap();
        assert!(hop.retry_at.is_some(), "{hop:?}");
        let page = rig.spool.list(&smtp_queue::Filter::default(), None, 10).await.unwrap();
        let job = &page.entries[0].job;
        assert_eq!(job.attempts, 0, "the message is not to blame: {job:?}");
        assert!(job.recipients[0].last.as_ref().unwrap().starts_with("451 4."), "{job:?}");
        rig.stop().await;
    }
}

#[tokio::test(start_paused = true)]
async fn what_was_asked_is_passed_on_and_with_it_the_notices() {
    let greeting = "S: 220 mx.example ESMTP\nC: EHLO *\nS: 250-mx.example\nS: 250-DSN\nS: 250-DELIVERBY 60\n\
                    S: 250-MT-PRIORITY\nS: 250 PIPELINING\n";
    let script = format!(
        "{greeting}C: MAIL FROM:<jo@a.example> RET=HDRS ENVID=x MT-PRIORITY=4 BY=590;R\n\
         C: RCPT TO:<x@b.example> NOTIFY=SUCCESS ORCPT=rfc822;o@c.example\n\
         C: DATA\nS: 250 2.1.0 ok\nS: 250 2.1.5 ok\nS: 354 go\nC: Subject: x\nC: \nC: x\nC: .\nS: 250 2.0.0 taken\n"
    );
    let server = ScriptedServer::start(vec![Scenario::parse("asked", &script).unwrap()]);
    let client = Client::new(server.connector(), target(), ClientSettings::default());
    let rig = Rig::start(Settings::default());
    rig.world.delegate("b.example", through(&client));
    let mail = "jo@a.example RET=HDRS ENVID=x HOLDFOR=10 BY=600;R MT-PRIORITY=4";
    rig.send(mail, &["x@b.example NOTIFY=SUCCESS ORCPT=rfc822;o@c.example"], MAIL).await.unwrap();
    tokio::time::sleep(Duration::from_secs(20)).await;
    assert_eq!(rig.spool.stats().jobs, 0);
    assert!(rig.world.taken("a.example").is_empty(), "the next hop tells");
    rig.stop().await;
}

#[tokio::test(start_paused = true)]
async fn where_it_cannot_be_passed_on_the_sender_is_told() {
    for (mode, action) in [("N", "Action: relayed"), ("R", "Action: failed\r\nStatus: 5.4.7")] {
        let taken = "C: MAIL FROM:<jo@a.example>\nC: RCPT TO:<x@b.example>\nC: DATA\nS: 250 2.1.0 ok\nS: 250 2.1.5 ok\n\
                     S: 354 go\nC: Subject: x\nC: \nC: x\nC: .\nS: 250 2.0.0 taken\n";
        let script = format!("{GREETING}{}C: QUIT\nS: 221 bye\n", if mode == "N" { taken } else { "" });
        let server = ScriptedServer::start(vec![Scenario::parse("lacks", &script).unwrap()]);
        let client = Client::new(server.connector(), target(), ClientSettings::default());
        let rig = Rig::start(Settings::default());
        rig.world.delegate("b.example", through(&client));
        let mail = format!("jo@a.example ENVID=x BY=600;{mode} MT-PRIORITY=4");
        rig.send(&mail, &["x@b.example NOTIFY=SUCCESS,FAILURE"], MAIL).await.unwrap();
        tokio::time::sleep(Duration::from_secs(20)).await;
        let notices = rig.world.taken("a.example");
        let page = rig.spool.list(&smtp_queue::Filter::default(), None, 10).await.unwrap();
        assert_eq!(notices.len(), 1, "mode {mode}: {page:?}");
        let text = String::from_utf8_lossy(&notices[0].content);
        assert!(text.contains(action), "{text}");
        rig.stop().await;
    }
}
