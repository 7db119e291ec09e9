//! What somebody sees who has just started a server: what it does, and how to try it.

use std::io::{self, Write};

use anstyle::{AnsiColor, Style};
use smtp_server::AuthLayer;

use super::Plan;
use super::store::Store;
use crate::transport::{Socket, Trial};

const HEAD: Style = Style::new().bold();
const LABEL: Style = Style::new().dimmed();
const PASTE: Style = Style::new().fg_color(Some(anstyle::Color::Ansi(AnsiColor::Cyan)));

/// What is shown of a socket.
#[derive(Debug)]
pub(super) struct Shown {
    /// What clients are given.
    pub(super) url: String,
    cover: &'static str,
    trial: Trial,
}

impl Shown {
    pub(super) fn of(socket: &Socket) -> Self {
        Self { url: socket.url.clone(), cover: socket.cover, trial: socket.trial }
    }
}

/// Shows it on stderr.
pub(super) fn show(plan: &Plan, store: &Store, sockets: &[Shown]) {
    // Nobody may be looking.
    let _ = write(&mut anstream::stderr().lock(), plan, store, sockets, &program());
}

fn write(out: &mut impl Write, plan: &Plan, store: &Store, sockets: &[Shown], program: &str) -> io::Result<()> {
    writeln!(out, "{HEAD}smtp {} is up{HEAD:#}\n", env!("CARGO_PKG_VERSION"))?;
    let mut label = "listens on";
    for Shown { url, cover, .. } in sockets {
        writeln!(out, "  {LABEL}{label:13}{LABEL:#}{url}  {LABEL}{cover}{LABEL:#}")?;
        label = "";
    }
    writeln!(out, "  {LABEL}{:13}{LABEL:#}{}", "takes", takes(plan))?;
    writeln!(out, "  {LABEL}{:13}{LABEL:#}{}/<domain>/<user>/new", "keeps it in", store.mail_dir.display())?;
    if let Some(queue) = &plan.queue {
        writeln!(out, "  {LABEL}{:13}{LABEL:#}{}, by the queue {queue}", "passes on", passes_on(plan))?;
    }
    let users = match &store.users {
        None => "nobody; `smtp user add NAME` makes a file for --user-file".to_owned(),
        Some(users) => {
            let auth = AuthLayer::users(users, &plan.hostname);
            let names: Vec<&str> = auth.names().filter(|name| !name.ends_with("-PLUS")).collect();
            let (count, names) = (users.list().len(), names.join(", "));
            format!("{count} {}, by {names}", if count == 1 { "user" } else { "users" })
        }
    };
    writeln!(out, "  {LABEL}{:13}{LABEL:#}{users}", "signs in")?;
    let self_signed = store.tls.as_ref().and_then(|tls| tls.self_signed.as_ref());
    if let Some(made) = self_signed {
        let new = if made.is_new() { ", made just now" } else { "" };
        writeln!(out, "  {LABEL}{:13}{LABEL:#}self-signed{new}; its pin, for --pin:", "certificate")?;
        writeln!(out, "  {:13}{}", "", made.pin())?;
    }
    let to = quoted(&plan.mailboxes.first().map_or_else(|| example(plan), ToString::to_string));
    writeln!(out, "\n{HEAD}Send it a first mail{HEAD:#}, from another terminal:\n")?;
    for Shown { url, trial, .. } in sockets {
        let url = quoted(&reachable(url));
        let pin =
            self_signed.filter(|_| trial.verifies).map_or_else(String::new, |made| format!(" --pin {}", made.pin()));
        writeln!(out, "  {PASTE}{program} send --server {url} --from me@example.org --to {to}{pin}{PASTE:#}")?;
        if let Some(more) = trial.curl {
            writeln!(
                out,
                "  {PASTE}echo 'Subject: hello' | curl --crlf{more} {url} --mail-from me@example.org --mail-rcpt {to} -T -{PASTE:#}"
            )?;
        }
    }
    writeln!(out, "\n{LABEL}Ctrl-C ends it. The log follows.{LABEL:#}\n")?;
    out.flush()
}

fn takes(plan: &Plan) -> String {
    let domains: Vec<&str> = plan.domains.iter().map(|domain| domain.as_str()).collect();
    let domains = domains.join(", ");
    if plan.mailboxes.is_empty() {
        return format!("mail for anybody at {domains}; --mailbox ADDRESS makes a list of who there is");
    }
    let mut shown: Vec<String> = plan.mailboxes.iter().take(5).map(ToString::to_string).collect();
    if plan.mailboxes.len() > shown.len() {
        shown.push(format!("{} more", plan.mailboxes.len() - shown.len()));
    }
    let aliases =
        plan.alias_file.as_ref().map_or_else(String::new, |file| format!(", by the aliases of {}", file.display()));
    format!("mail for {} and postmaster{aliases}, and for nobody else at {domains}", shown.join(", "))
}

/// Whose mail goes further.
fn passes_on(plan: &Plan) -> String {
    let domains: Vec<&str> = plan.relay_domains.iter().map(|domain| domain.as_str()).collect();
    let users = "what users send";
    if domains.is_empty() { users.to_owned() } else { format!("mail for {}, and {users}", domains.join(", ")) }
}

fn example(plan: &Plan) -> String {
    format!("you@{}", plan.domains.first().map_or("localhost", |domain| domain.as_str()))
}

/// The URL for somebody on this machine: nobody can connect to "all addresses".
fn reachable(url: &str) -> String {
    url.replacen("//0.0.0.0:", "//127.0.0.1:", 1).replacen("//[::]:", "//[::1]:", 1)
}

/// As a shell takes it.
fn quoted(word: &str) -> String {
    let plain = |c: char| c.is_alphanumeric() || matches!(c, '/' | '.' | '_' | '-' | '+' | ':' | '@' | '=' | '%');
    if word.chars().all(plain) { word.to_owned() } else { format!("'{}'", word.replace('\'', "'\\''")) }
}

/// How this program was called, so that the line works when it is pasted.
fn program() -> String {
    let name = std::env::args().next().unwrap_or_default();
    if name.contains('/') { quoted(&name) } else { "smtp".into() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn everybody_can_connect_to_what_is_shown() {
        assert_eq!(reachable("smtp://0.0.0.0:25"), "smtp://127.0.0.1:25");
        assert_eq!(reachable("smtps://[::]:465"), "smtps://[::1]:465");
        assert_eq!(reachable("smtp://192.0.2.1:25"), "smtp://192.0.2.1:25");
    }

    #[test]
    fn what_is_pasted_is_one_word() {
        assert_eq!(quoted("you@localhost"), "you@localhost");
        assert_eq!(quoted("o'brien@localhost"), "'o'\\''brien@localhost'");
        assert_eq!(quoted("\"a b\"@localhost"), "'\"a b\"@localhost'");
        assert_eq!(quoted("smtp://[::1]:25?tls=required"), "'smtp://[::1]:25?tls=required'");
    }
}
