//! `smtp user`: keeps a file of users.

mod file;

use std::io::{self, IsTerminal, Write};
use std::path::PathBuf;

use serde::Deserialize;
use smtp_core::types::{Mailbox, Secret};
use smtp_server::auth::{Hash, SendAs, User};
use smtp_tls::Pin;

use crate::connect::read_password;
use crate::exit::{Exit, Failure};
use crate::settings::layered;
use crate::values::{self, Many, flatten};
use file::UserFile;

/// Keeps the file of users that `smtp serve --user-file` reads.
#[derive(Debug, Default, clap::Args, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Arguments {
    /// What to do.
    #[arg(value_enum)]
    #[serde(skip)]
    action: Action,

    /// The user; not for list.
    #[arg(value_name = "NAME")]
    #[serde(skip)]
    name: Option<String>,

    /// The file. Default: ./smtp-data/users. `add` makes it, for its owner alone.
    #[arg(long, value_name = "FILE")]
    user_file: Option<PathBuf>,

    /// The password is the first line of this file. Without it a terminal is asked, or else the first line of standard
    /// input is taken; never the command line, which other users of this machine can see.
    #[arg(long, value_name = "FILE")]
    password_file: Option<PathBuf>,

    /// Add a user without a password, who is known by a certificate, a user id or a token only.
    #[arg(long, conflicts_with = "password_file")]
    no_password: bool,

    /// Add a user with a token for OAUTHBEARER and XOAUTH2. It is shown this once, on standard output; the file has its
    /// hash.
    #[arg(long)]
    token: bool,

    /// An address that the user may send as, or @DOMAIN for all of one; may be repeated.
    ///
    /// The user may always send as the address that is its name or, if that is none, as NAME at each domain of the
    /// server.
    #[arg(long, value_name = "ADDRESS")]
    #[serde(deserialize_with = "values::list")]
    send_as: Vec<Many<String>>,

    /// A key whose certificate the user logs in by: the hex SHA-256 of the SubjectPublicKeyInfo; may be repeated.
    ///
    /// The server has to ask for certificates: smtp serve --tls-client-ca.
    #[arg(long, value_name = "SHA256")]
    #[serde(deserialize_with = "values::list")]
    certificate_key: Vec<Many<Pin>>,

    /// A mail address in a certificate that the user logs in by; may be repeated.
    #[arg(long, value_name = "ADDRESS")]
    #[serde(deserialize_with = "values::list")]
    certificate_address: Vec<Many<Mailbox>>,

    /// A user of this machine that logs in as this one over a Unix socket, by its number; may be repeated.
    #[arg(long, value_name = "UID")]
    #[serde(deserialize_with = "values::list")]
    uid: Vec<Many<u32>>,

    /// Keep keys for SCRAM-SHA-1 too, for old clients. Offered if all users have them.
    #[arg(long)]
    scram_sha_1: bool,

    /// Keep the password itself, for CRAM-MD5: whoever reads the file has it. Offered if it is kept of all users.
    #[arg(long)]
    cram_md5: bool,

    /// Read options from this TOML file; its keys are their names.
    #[arg(long, value_name = "FILE")]
    #[serde(skip)]
    config: Option<PathBuf>,
}

/// What to do with the file.
#[derive(Debug, Clone, Copy, Default, clap::ValueEnum)]
enum Action {
    /// Add a user.
    Add,
    /// Show who is there, and by what each can log in.
    #[default]
    List,
    /// Remove a user.
    Remove,
    /// Give a user another password.
    Passwd,
    /// Give a user a new token for OAUTHBEARER and XOAUTH2, and show it this once; one before it is of no use any more.
    Token,
    /// Take a user's token away.
    Revoke,
}

layered!(Arguments {
    user_file,
    password_file,
    no_password,
    token,
    send_as,
    certificate_key,
    certificate_address,
    uid,
    scram_sha_1,
    cram_md5,
} except { action, name });

/// What stands below the options in `smtp user --help`.
pub(crate) const MORE_HELP: &str = "\
A server that is running reads the file again on SIGHUP. It offers what mechanisms it offered at its start: restart it \
after the first user, the first --uid, --certificate-… or token, and when all have --scram-sha-1 or --cram-md5.

Examples:
  smtp user add jo
  smtp user add jo --send-as jo@example.org --send-as @lists.example.org
  smtp user add backup --no-password --uid 34
  smtp user add ci --no-password --token >token; smtp send --auth OAUTHBEARER --user ci --password-file token …
  smtp user passwd jo --password-file new
  smtp user list --user-file /etc/smtp/users";

/// Where the file is if nobody says.
const DEFAULT_FILE: &str = "smtp-data/users";

/// Runs `smtp user`.
///
/// # Errors
/// If the file or what is to go into it cannot be used.
pub(crate) fn run(arguments: &Arguments) -> Result<Exit, Failure> {
    let path = arguments.user_file.clone().unwrap_or_else(|| DEFAULT_FILE.into());
    if matches!(arguments.action, Action::List) {
        return list(&UserFile::read(&path)?);
    }
    let name = arguments.name.as_deref().ok_or_else(|| {
        Failure::usage("no user is named").help("`smtp user add NAME`; `smtp user --help` tells more")
    })?;
    // Before the file is locked: somebody may take long to type.
    let new = match arguments.action {
        Action::Add => Change::Add(Box::new(arguments.user(name)?)),
        Action::Passwd => Change::Password(password(name, arguments.password_file.as_deref())?),
        Action::Token => Change::Token,
        Action::Revoke => Change::Revoke,
        Action::Remove | Action::List => Change::Remove,
    };
    let mut file = UserFile::lock(&path)?;
    let mut token = None;
    let done = match new {
        Change::Add(user) => {
            let mut user = *user;
            if arguments.token {
                let (with, made) = user.with_new_token().map_err(Failure::config)?;
                (user, token) = (with, Some(made));
            }
            file.add(user)?;
            "added"
        }
        Change::Password(password) => {
            let user = file.find(name)?;
            let (sha1, secret) = (user.keys(Hash::Sha1).is_some(), user.mechanisms().contains(&"CRAM-MD5"));
            let user =
                with_password(user.clone(), &password, sha1 || arguments.scram_sha_1, secret || arguments.cram_md5)?;
            file.replace(user)?;
            "has a new password"
        }
        Change::Token => {
            let (user, made) = file.find(name)?.clone().with_new_token().map_err(Failure::config)?;
            token = Some(made);
            file.replace(user)?;
            "has a new token"
        }
        Change::Revoke => {
            let user = file.find(name)?.clone().without_token();
            file.replace(user)?;
            "has no token"
        }
        Change::Remove => {
            file.remove(name)?;
            "removed"
        }
    };
    file.store()?;
    // Only what is in the file is of any use.
    if let Some(token) = token {
        let token = String::from_utf8_lossy(token.expose()).into_owned();
        writeln!(io::stdout(), "{token}")
            .map_err(|error| Failure::new(Exit::Io, format!("cannot write to standard output: {error}")))?;
    }
    crate::exit::say(format_args!("{name}: {done} ({})", path.display()));
    Ok(Exit::Success)
}

enum Change {
    Add(Box<User>),
    Password(Secret),
    Token,
    Revoke,
    Remove,
}

impl Arguments {
    fn user(&self, name: &str) -> Result<User, Failure> {
        let mut user = User::new(name).map_err(Failure::usage)?;
        if self.no_password {
            let external =
                !self.certificate_key.is_empty() || !self.certificate_address.is_empty() || !self.uid.is_empty();
            if !external && !self.token {
                return Err(Failure::usage("--no-password leaves no way to log in")
                    .help("give --token, --certificate-key, --certificate-address or --uid too"));
            }
        } else {
            let password = password(name, self.password_file.as_deref())?;
            user = with_password(user, &password, self.scram_sha_1, self.cram_md5)?;
        }
        for key in flatten(self.certificate_key.clone()) {
            user = user.with_certificate_key(*key.as_bytes());
        }
        for mailbox in flatten(self.certificate_address.clone()) {
            user = user.with_certificate_mailbox(mailbox);
        }
        for uid in flatten(self.uid.clone()) {
            user = user.with_uid(uid);
        }
        for address in flatten(self.send_as.clone()) {
            let who: SendAs = address
                .parse()
                .map_err(|_| Failure::usage(format!("--send-as {address}: neither an address nor @ and a domain")))?;
            user = user.sending_as(who);
        }
        Ok(user)
    }
}

fn with_password(user: User, password: &Secret, sha1: bool, secret: bool) -> Result<User, Failure> {
    let mut user = user.with_password(password).map_err(Failure::config)?;
    if sha1 {
        user = user.with_keys(Hash::Sha1, password).map_err(Failure::config)?;
    }
    if secret {
        user = user.with_secret(password).map_err(Failure::config)?;
    }
    Ok(user)
}

/// The password: from the file, from whoever sits at the terminal, or from standard input.
fn password(name: &str, file: Option<&std::path::Path>) -> Result<Secret, Failure> {
    let text = match file {
        Some(file) => read_password(file)?,
        None if io::stdin().is_terminal() => {
            let ask = |prompt: &str| {
                rpassword::prompt_password(format!("{prompt} {}: ", smtp_core::types::printable(name.as_bytes())))
                    .map_err(|error| Failure::new(Exit::Io, format!("cannot ask for the password: {error}")))
            };
            let text = ask("password of")?;
            if ask("once more, of")? != text {
                return Err(Failure::usage("the two passwords differ").help("try again"));
            }
            text
        }
        None => {
            let mut line = String::new();
            io::stdin()
                .read_line(&mut line)
                .map_err(|error| Failure::new(Exit::Io, format!("cannot read the password: {error}")))?;
            line.trim_end_matches(['\r', '\n']).to_owned()
        }
    };
    if text.is_empty() {
        return Err(Failure::usage("the password is empty").help("--no-password adds a user without one"));
    }
    Ok(Secret::new(text))
}

/// A line for each user on standard output: name, mechanisms, addresses, separated by tabs.
fn list(file: &UserFile) -> Result<Exit, Failure> {
    let mut out = io::stdout().lock();
    for user in file.users() {
        let addresses: Vec<String> = user.sends_as().iter().map(ToString::to_string).collect();
        let line = format!("{}\t{}\t{}", user.name(), user.mechanisms().join(" "), addresses.join(" "));
        match writeln!(out, "{}", line.trim_end()) {
            Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
                return Err(Failure::new(Exit::Io, format!("cannot write to standard output: {error}")));
            }
            Ok(()) | Err(_) => {}
        }
    }
    Ok(Exit::Success)
}
