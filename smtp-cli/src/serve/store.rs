//! What a server keeps on disk: mail, its key, and whom it knows.

use std::fs::{self, DirBuilder, Permissions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use smtp_core::types::Secret;
use smtp_server::Maildir;
use smtp_server::auth::{SharedUsers, UserList};
use smtp_tls::{ClientCertificates, SelfSigned, ServerTls};

use super::Plan;
use super::run_as::RunAs;
use crate::exit::{Failure, warn};
use crate::transport::want_tls;

/// All of it, opened.
#[derive(Debug)]
pub(super) struct Store {
    /// The mail.
    pub(super) maildir: Maildir,
    /// Where the mail is, as it is told to people.
    pub(super) mail_dir: PathBuf,
    /// TLS, if a listener wants it.
    pub(super) tls: Option<StoredTls>,
    /// Who may authenticate, if anybody.
    pub(super) users: Option<Arc<SharedUsers>>,
}

/// TLS, and what there is to tell of it.
#[derive(Debug)]
pub(super) struct StoredTls {
    /// For the listeners.
    pub(super) server: ServerTls,
    /// The certificate, if it is one of our own making.
    pub(super) self_signed: Option<SelfSigned>,
}

/// What only root may be able to read.
#[derive(Debug)]
pub(super) struct Keys {
    /// TLS, if a listener wants it.
    pub(super) tls: Option<StoredTls>,
    users: Option<Arc<SharedUsers>>,
}

impl Keys {
    /// Reads what the plan names, and makes what is not there yet; it will be `owner`'s.
    ///
    /// # Errors
    /// If something cannot be used; says what, and what to do.
    pub(super) fn open(plan: &Plan, owner: Option<&RunAs>) -> Result<Self, Failure> {
        let users = users(plan)?;
        let users = (!users.is_empty()).then(|| Arc::new(SharedUsers::new(users)));
        private_folder(&plan.data_dir).map_err(|error| {
            Failure::config(format!("cannot keep data in {}: {error}", plan.data_dir.display()))
                .help("--data-dir DIR names another folder; it has to belong to the user that this program runs as")
        })?;
        if let Some(owner) = owner {
            owner.own(&plan.data_dir)?;
        }
        let tls = want_tls(&plan.urls).then(|| tls(plan)).transpose()?;
        if let (Some(owner), Some(StoredTls { self_signed: Some(_), .. })) = (owner, &tls) {
            owner.own_all(&plan.data_dir.join(TLS))?;
        }
        Ok(Self { tls, users })
    }

    /// Opens the rest.
    ///
    /// # Errors
    /// If something cannot be used; says what, and what to do.
    pub(super) fn store(self, plan: &Plan) -> Result<Store, Failure> {
        let Self { tls, users } = self;
        let mail_dir = plan.data_dir.join("mail");
        let [primary, ..] = &*plan.domains else { return Err(Failure::config("there is no domain to take mail for")) };
        let builder = Maildir::builder(&mail_dir, primary).hostname(plan.hostname.as_str());
        // Where there is a list, it is the limit.
        let builder = if plan.mailboxes.is_empty() { builder } else { builder.max_mailboxes(usize::MAX) };
        let maildir = builder
            .open()
            .map_err(|error| Failure::config(format!("cannot keep mail in {}: {error}", mail_dir.display())))?;
        let mail_dir = mail_dir.canonicalize().unwrap_or(mail_dir);
        Ok(Store { maildir, mail_dir, tls, users })
    }
}

/// The folder of a certificate of our own making, in the data folder.
const TLS: &str = "tls";

/// Makes the folder, for its owner alone whatever the umask; one that is there is left as it is.
pub(super) fn private_folder(path: &Path) -> io::Result<()> {
    match fs::metadata(path) {
        Ok(found) if !found.is_dir() => Err(io::Error::other("it is not a folder")),
        Ok(found) => {
            if found.permissions().mode() & 0o077 != 0 {
                warn(format_args!("other users can look into {0}; `chmod 700 {0}` keeps them out", path.display()));
            }
            Ok(())
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            DirBuilder::new().mode(0o700).recursive(true).create(path)?;
            fs::set_permissions(path, Permissions::from_mode(0o700))
        }
        Err(error) => Err(error),
    }
}

fn tls(plan: &Plan) -> Result<StoredTls, Failure> {
    let (identity, self_signed) = match &plan.identity {
        Some(identity) => (identity.clone(), None),
        None => {
            let names = std::iter::once(&plan.hostname).chain(&plan.domains);
            let names: Vec<String> = names.map(|name| crate::url::ascii(name.as_str())).collect();
            let names: Vec<&str> = names.iter().map(String::as_str).collect();
            let made = SelfSigned::load_or_create(&plan.data_dir.join(TLS), &names).map_err(Failure::config)?;
            (made.identity(), Some(made))
        }
    };
    let mut server = ServerTls::builder().identity(identity).key_log(plan.key_log);
    if let Some(ca) = &plan.client_ca {
        server = server.client_ca(ca, ClientCertificates::Optional);
    }
    let server = server.build().map_err(Failure::config)?;
    Ok(StoredTls { server, self_signed })
}

/// Whom the plan names, read anew.
///
/// # Errors
/// If the file or a user cannot be used.
pub(super) fn users(plan: &Plan) -> Result<UserList, Failure> {
    let mut users = match &plan.user_file {
        Some(path) => UserList::from_file(path)
            .map_err(|error| Failure::config(error).help("`smtp user add NAME --user-file FILE` writes such a file"))?,
        None => UserList::new(),
    };
    for user in &plan.users {
        let (name, password) = user
            .expose()
            .split_once(':')
            .filter(|(_, password)| !password.is_empty())
            // The text is not repeated: it may be a password.
            .ok_or_else(|| Failure::usage("--user is NAME:PASSWORD, and there is no colon or no password in it"))?;
        users =
            users.with(name, &Secret::new(password)).map_err(|error| Failure::config(format!("--user: {error}")))?;
    }
    Ok(users)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_folder_is_private_with_all_that_lies_above_it() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a/b");
        private_folder(&path).unwrap();
        for folder in [&path, &dir.path().join("a")] {
            assert_eq!(fs::metadata(folder).unwrap().permissions().mode() & 0o777, 0o700);
        }
        // A second run finds it.
        private_folder(&path).unwrap();
        fs::write(dir.path().join("file"), "").unwrap();
        assert!(private_folder(&dir.path().join("file")).is_err());
    }
}
