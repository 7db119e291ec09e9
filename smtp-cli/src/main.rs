//! The binary `smtp`.
//!
//! Each subcommand is a module: [`serve`], [`queue`], [`config`], [`sendmail`], [`sink`], [`send`], [`shell`], [`user`],
//! [`replay`], `bench` and `lab` (features), [`manual`]. What they share: [`admin`] is what a server and its administrator say to each other,
//! [`url`] is the vocabulary for listening and connecting, [`transport`] what stands behind each of its words,
//! [`settings`] where options come from, [`connect`] the way to a server, [`listen`] the way to be one, [`transcript`]
//! what a session looks like on a screen, and [`exit`] what the shell is told.

mod admin;
#[cfg(feature = "bench")]
mod bench;
mod cli;
mod config;
mod connect;
mod credentials;
mod exit;
#[cfg(feature = "lab")]
mod lab;
mod listen;
mod logging;
mod manual;
mod queue;
mod replay;
mod send;
mod sendmail;
mod serve;
mod settings;
mod shell;
mod sink;
mod source;
mod terms;
mod threads;
mod transcript;
mod transport;
mod trust;
mod url;
mod user;
mod values;

use std::future::Future;
use std::io;
use std::process::ExitCode;

use clap::{ArgMatches, FromArgMatches};
use rustls::CipherSuite;
use rustls::crypto::CryptoProvider;
use tokio::runtime::Builder;

use crate::exit::{Exit, Failure};
use crate::settings::load;

fn main() -> ExitCode {
    // It fails only if that was done before.
    let _ = cryptography().install_default();
    let arguments = sendmail::by_name(std::env::args_os().collect());
    let exit = match cli::command().try_get_matches_from(&arguments) {
        Ok(matches) => run(&matches),
        // Help and the version are what was asked for.
        Err(error) if !error.use_stderr() => {
            let _ = error.print();
            Ok(Exit::Success)
        }
        Err(error) if error.kind() == clap::error::ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand => {
            let _ = error.print();
            Ok(Exit::Usage)
        }
        Err(error) => Err(settings::usage(&error, &arguments)),
    };
    exit.unwrap_or_else(|failure| {
        failure.report();
        failure.exit()
    })
    .into()
}

/// The one place where the cryptography is chosen. Of the suites of TLS 1.3 the one that everybody has to have (RFC 8446 §9.1)
/// comes first: most processors have instructions for its hash, and its cipher has fewer rounds than that with longer keys.
fn cryptography() -> CryptoProvider {
    let mut provider = rustls::crypto::aws_lc_rs::default_provider();
    provider.cipher_suites.sort_by_key(|suite| suite.suite() != CipherSuite::TLS13_AES_128_GCM_SHA256);
    provider
}

fn run(matches: &ArgMatches) -> Result<Exit, Failure> {
    let Some((name, matches)) = matches.subcommand() else { return Err(Failure::usage("no subcommand")) };
    match name {
        "serve" => block_on(&mut Builder::new_multi_thread(), serve::run(matches.clone())),
        "sink" => {
            let arguments = load(matches)?;
            block_on(&mut sink::runtime(&arguments)?, sink::run(arguments))
        }
        "send" => {
            let arguments = load(matches)?;
            block_on(&mut Builder::new_current_thread(), async { Ok(send::run(arguments).await) })
        }
        "queue" => block_on(&mut Builder::new_current_thread(), queue::run(arguments(matches)?)),
        "sendmail" => block_on(&mut Builder::new_current_thread(), sendmail::run(arguments(matches)?)),
        "config" => config::run(&arguments(matches)?),
        "replay" => block_on(&mut Builder::new_current_thread(), replay::run(load(matches)?)),
        #[cfg(feature = "bench")]
        "bench" => {
            let arguments = load(matches)?;
            block_on(&mut bench::runtime(&arguments)?, bench::run(arguments))
        }
        #[cfg(feature = "lab")]
        "lab" => lab::run(&arguments(matches)?),
        "shell" => block_on(&mut Builder::new_current_thread(), shell::run(load(matches)?)),
        "user" => user::run(&load(matches)?),
        "completions" => manual::completions(&arguments(matches)?, cli::command()),
        "man" => manual::man(&arguments(matches)?, cli::command()),
        other => Err(Failure::usage(format!("no subcommand {other:?}"))),
    }
}

fn arguments<T: FromArgMatches>(matches: &ArgMatches) -> Result<T, Failure> {
    T::from_arg_matches(matches).map_err(Failure::usage)
}

fn block_on(builder: &mut Builder, work: impl Future<Output = Result<Exit, Failure>>) -> Result<Exit, Failure> {
    let cannot = |error: io::Error| Failure::new(Exit::Io, format!("cannot start: {error}"));
    let runtime = builder.enable_all().build().map_err(cannot)?;
    let exit = runtime.block_on(work);
    // Somebody who waits at a prompt in a thread of its own does not keep the program.
    runtime.shutdown_background();
    exit
}
