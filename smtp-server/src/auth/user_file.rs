//! Users from a file.

use std::io;
use std::path::{Path, PathBuf};

use super::{UserError, UserList};

impl UserList {
    /// Reads a user file: a [`User`](super::User) a line. Blank lines and lines that start with `#` are skipped.
    ///
    /// Blocks while it reads. The file should be readable by its owner only.
    ///
    /// # Errors
    /// [`UserFileError`] names the file and the line.
    pub fn from_file(path: impl AsRef<Path>) -> Result<Self, UserFileError> {
        let path = path.as_ref();
        let text =
            std::fs::read_to_string(path).map_err(|source| UserFileError::Read { path: path.to_owned(), source })?;
        let mut users = Self::new();
        for (i, line) in text.lines().enumerate() {
            let line = line.trim();
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            let at = |why| UserFileError::Line { path: path.to_owned(), line: i + 1, why };
            users = line.parse().and_then(|user| users.and(user)).map_err(at)?;
        }
        Ok(users)
    }
}

/// Why a user file cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum UserFileError {
    /// It cannot be read.
    #[error("{}: {source}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// A line is wrong.
    #[error("{}:{line}: {why}", path.display())]
    Line {
        /// The file.
        path: PathBuf,
        /// The line, from 1.
        line: usize,
        /// What is wrong with it.
        #[source]
        why: UserError,
    },
}

#[cfg(test)]
mod tests {
    use super::super::testing::cheap_hash;
    use super::super::{Check, Users};
    use super::*;
    use smtp_core::types::Secret;

    fn read(text: &str) -> Result<UserList, String> {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), text).unwrap();
        UserList::from_file(file.path()).map_err(|e| e.to_string().replace(file.path().to_str().unwrap(), "FILE"))
    }

    #[tokio::test]
    async fn users_comments_and_blank_lines() {
        let text =
            format!("# users\n\njo:{}\r\n  al@example.org: {}\n#x:y\n", cheap_hash("right"), cheap_hash("other"));
        let users = read(&text).unwrap();
        assert_eq!(users.len(), 2);
        assert_eq!(users.verify("jo", &Secret::new(*b"right")).await, Check::Yes);
        assert_eq!(users.verify("al@example.org", &Secret::new(*b"other")).await, Check::Yes);
    }

    #[test]
    fn errors_name_file_and_line_and_no_secret() {
        let hash = cheap_hash("right");
        assert!(read(&format!("# x\njo:{hash}\njo:{hash}\n")).unwrap_err().starts_with("FILE:3: the user jo"));
        let error = read("jo:hunter2\n").unwrap_err();
        assert!(error.starts_with("FILE:1: ") && !error.contains("hunter2"), "{error}");
        let error = read("\nhunter2\n").unwrap_err();
        assert!(error.starts_with("FILE:2: ") && !error.contains("hunter2"), "{error}");
        let error = UserList::from_file("/nonexistent/users").unwrap_err().to_string();
        assert!(error.starts_with("/nonexistent/users: "), "{error}");
    }
}
