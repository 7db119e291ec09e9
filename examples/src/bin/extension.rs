//! An extension of one's own, without a change to any crate: `XCOLOUR`, with a parameter of MAIL, a verb, and a rule for
//! next hops that do not know it. Server and client have it, and the server's delivery keeps the colour.

use std::convert::Infallible;
use std::future::{Ready, ready};
use std::task::{Context, Poll};

use smtp_client::{Connection, Options, SendOptions};
use smtp_core::extension::{Extension, Lack, ParameterRule, Promises, bad_value};
use smtp_core::service::{Body, Request, Verdict};
use smtp_core::stream::{Connector, Target, TlsPolicy};
use smtp_core::types::{Code, Command, Envelope, ForwardPath, Invalid, Mail, Mailbox, Parameter, Rcpt, Reply};
use smtp_core::{driver, session::server::Config};
use smtp_server::{Mailboxes, Recorder, Server, Settings};
use smtp_test::memory::{Knobs, MemoryListener};
use tokio_util::sync::CancellationToken;
use tower::Service;

/// What EHLO shows, which values are good, what a client does without it, and the verb. It stands in the registry of
/// each side that is to have it.
static XCOLOUR: Extension = Extension {
    // Only where a delivery promises to keep it.
    needs_promise: true,
    announce: |_, ehlo| ehlo.push_str(" RED GREEN"),
    mail: &[ParameterRule {
        keyword: Colour::KEYWORD,
        check: |_, value, _| Colour::from_value(value).map(drop).map_err(bad_value),
        // Mail without its colour is better than no mail.
        lacking: |_| Lack::Omit,
    }],
    verbs: &["XPAINT"],
    ..Extension::keyword("XCOLOUR", "this example")
};

/// MAIL's `XCOLOUR=`.
#[derive(Debug, PartialEq)]
enum Colour {
    Red,
    Green,
}

impl Parameter for Colour {
    const KEYWORD: &'static str = "XCOLOUR";

    fn from_value(value: Option<&str>) -> Result<Self, Invalid> {
        match value {
            Some("RED") => Ok(Self::Red),
            Some("GREEN") => Ok(Self::Green),
            _ => Err(Invalid::new("XCOLOUR", "RED or GREEN")),
        }
    }

    fn write_value(&self, out: &mut dyn std::fmt::Write) -> std::fmt::Result {
        out.write_str(if *self == Self::Red { "RED" } else { "GREEN" })
    }
}

/// The policy answers the verb, and leaves everything else to the recipients.
#[derive(Clone)]
struct Painter(Mailboxes);

impl Service<Request> for Painter {
    type Response = Verdict;
    type Error = Infallible;
    type Future = Ready<Result<Verdict, Infallible>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        self.0.poll_ready(cx)
    }

    fn call(&mut self, request: Request) -> Self::Future {
        match (&request.command, Code::new(250)) {
            (Command::Other { verb, arguments }, Ok(code)) if &**verb == "XPAINT" => {
                ready(Ok(Verdict::Answer(Reply::new(code, None, format!("painting it {arguments}")))))
            }
            _ => self.0.call(request),
        }
    }
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
    let domain = "farm.example".parse()?;
    let (policy, recorder) = (Painter(Mailboxes::new(&domain)?), Recorder::new());
    let mut config = Config::new(domain).promising(Promises::of(&["XCOLOUR"]));
    config.registry = config.registry.with(&XCOLOUR);
    let listener = MemoryListener::new(Knobs::clear());
    let connector: Box<dyn Connector> = Box::new(listener.connector());
    let (stop, delivery) = (CancellationToken::new(), recorder.clone());
    let server = Server::new(Settings::new(driver::Settings::new(config)), move |_| (policy.clone(), delivery.clone()));
    let server = tokio::spawn(server.listen(listener).run(stop.clone()));

    let mut options = Options::default();
    options.registry = options.registry.with(&XCOLOUR);
    let target = Target::host("farm.example".parse()?, 25);
    let mut connection = Connection::connect(&*connector, &target, &TlsPolicy::NONE, options.into()).await?;
    connection.hello().await?;
    println!("offered: XCOLOUR {}", connection.capabilities().get("XCOLOUR").unwrap_or_default());
    println!("XPAINT:  {}", connection.verb("XPAINT", "blue").await?);

    let hen: Mailbox = "hen@farm.example".parse()?;
    let mut mail = Mail::new(hen.clone());
    mail.parameters = mail.parameters.with(&Colour::Red)?;
    let envelope = Envelope { mail, recipients: vec![Rcpt::new(ForwardPath::from(hen))] };
    let body = Body::from_bytes(&b"Subject: paint\r\n\r\nred\r\n"[..]);
    connection.send(&envelope, body, &SendOptions::default()).await?.single()?;
    println!("kept:    {:?}", recorder.messages()[0].envelope.mail.parameters.get::<Colour>());

    // Any line, to see what the server makes of a value that its rule does not know.
    println!("blue:    {}", connection.raw("MAIL FROM:<> XCOLOUR=BLUE").await?);
    connection.quit().await?;
    stop.cancel();
    server.await?;
    Ok(())
}
