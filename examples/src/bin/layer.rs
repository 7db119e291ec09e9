//! A tower layer of one's own, between tower's: greylisting. A sender that is new to a recipient is told to come again;
//! real mail servers do, and many spammers do not.

use std::collections::HashMap;
use std::future::ready;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use smtp_core::service::{Request, Verdict};
use smtp_core::stream::{BoxFuture, Listener};
use smtp_core::types::{Command, Mail, Refusal};
use smtp_core::{driver, session::server::Config};
use smtp_server::{Mailboxes, Server, Settings, Sink};
use smtp_transport_tcp::{ListenOptions, TcpListener};
use tokio_util::sync::CancellationToken;
use tower::{Layer, Service, ServiceBuilder};

/// Sender and recipient, and when they were first seen together. Bounded: at its limit everybody is let through.
type Seen = Arc<Mutex<HashMap<(String, String), Instant>>>;

/// What is the same for all sessions.
#[derive(Clone)]
struct GreylistLayer {
    seen: Seen,
    wait: Duration,
}

impl<S> Layer<S> for GreylistLayer {
    type Service = Greylist<S>;

    fn layer(&self, inner: S) -> Greylist<S> {
        Greylist { inner, shared: self.clone(), from: String::new() }
    }
}

/// One session's policy: it remembers the session's sender, and asks the inner policy about everything else.
struct Greylist<S> {
    inner: S,
    shared: GreylistLayer,
    from: String,
}

impl<S> Service<Request> for Greylist<S>
where
    S: Service<Request, Response = Verdict, Error: Send + 'static, Future: Send + 'static>,
{
    type Response = Verdict;
    type Error = S::Error;
    type Future = BoxFuture<'static, Result<Verdict, S::Error>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Request) -> Self::Future {
        match &request.command {
            Command::Mail(Mail { from, .. }) => self.from = from.to_string(),
            Command::Rcpt(rcpt) => {
                let pair = (self.from.clone(), rcpt.to.to_string());
                let mut seen = self.shared.seen.lock().unwrap_or_else(PoisonError::into_inner);
                if seen.len() < 100_000 && seen.entry(pair).or_insert_with(Instant::now).elapsed() < self.shared.wait {
                    let refusal = Refusal::fixed(450, (4, 7, 1), "greylisted: come again in a while");
                    return Box::pin(ready(Ok(Verdict::Refuse(refusal))));
                }
            }
            _ => {}
        }
        Box::pin(self.inner.call(request))
    }
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let domain = "localhost".parse()?;
    let mailboxes = Mailboxes::new(&domain)?;
    let greylist = GreylistLayer { seen: Seen::default(), wait: Duration::from_millis(500) };

    let address = std::env::args().nth(1).unwrap_or("127.0.0.1:2525".into());
    let listener = TcpListener::bind(address.parse()?, ListenOptions::default())?;
    println!("listening {}", listener.url());

    let settings = Settings::new(driver::Settings::new(Config::new(domain).promising(Sink::PROMISES)));
    let server = Server::new(settings, move |_session| {
        let policy = ServiceBuilder::new()
            // At most so many questions of one session are answered at once.
            .concurrency_limit(4)
            .layer(greylist.clone())
            .service(mailboxes.clone());
        (policy, Sink::new())
    });
    server.listen(listener).run(CancellationToken::new()).await;
    Ok(())
}
