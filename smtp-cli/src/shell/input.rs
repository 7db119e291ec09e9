//! Lines from a terminal, with editing, or from a pipe.

use std::io::{self, IsTerminal};

use rustyline::completion::Completer;
use rustyline::error::ReadlineError;
use rustyline::highlight::Highlighter;
use rustyline::hint::Hinter;
use rustyline::history::MemHistory;
use rustyline::validate::Validator;
use rustyline::{Config, Context, Editor, Helper};
use tokio::io::{AsyncBufReadExt, BufReader, Stdin};

/// Where lines come from.
pub(super) enum Input {
    /// Somebody types.
    Terminal(Option<Box<Editor<Words, MemHistory>>>),
    /// A pipe or a file.
    Pipe(BufReader<Stdin>),
}

impl Input {
    /// Standard input, whatever it is.
    ///
    /// # Errors
    /// If the terminal cannot be used.
    pub(super) fn new() -> io::Result<Self> {
        if !io::stdin().is_terminal() {
            return Ok(Self::Pipe(BufReader::new(tokio::io::stdin())));
        }
        let mut editor = Editor::with_history(Config::default(), MemHistory::new()).map_err(io::Error::other)?;
        editor.set_helper(Some(Words));
        Ok(Self::Terminal(Some(Box::new(editor))))
    }

    /// True if somebody types.
    pub(super) const fn is_terminal(&self) -> bool {
        matches!(self, Self::Terminal(_))
    }

    /// The next line without its end; `None` at the end of the input. `keep` says that the line may be remembered.
    ///
    /// # Errors
    /// If the input breaks.
    pub(super) async fn line(&mut self, prompt: &'static str, keep: bool) -> io::Result<Option<Vec<u8>>> {
        match self {
            Self::Pipe(pipe) => {
                let mut line = Vec::new();
                if pipe.read_until(b'\n', &mut line).await? == 0 {
                    return Ok(None);
                }
                let end = line.strip_suffix(b"\n").map(|line| line.strip_suffix(b"\r").unwrap_or(line).len());
                line.truncate(end.unwrap_or(line.len()));
                Ok(Some(line))
            }
            Self::Terminal(editor) => {
                let Some(mut own) = editor.take() else { return Ok(None) };
                // The editor blocks while somebody thinks.
                let (own, line) = tokio::task::spawn_blocking(move || {
                    let line = read(&mut own, prompt, keep);
                    (own, line)
                })
                .await
                .map_err(io::Error::other)?;
                *editor = Some(own);
                line
            }
        }
    }

    /// Asks for something that is not to be seen. From a pipe it is just the next line.
    ///
    /// # Errors
    /// If the input breaks.
    pub(super) async fn secret(&mut self, prompt: String) -> io::Result<Option<String>> {
        match self {
            Self::Pipe(_) => Ok(self.line("", false).await?.map(|line| String::from_utf8_lossy(&line).into_owned())),
            Self::Terminal(_) => tokio::task::spawn_blocking(move || rpassword::prompt_password(prompt))
                .await
                .map_err(io::Error::other)?
                .map(Some),
        }
    }
}

fn read(editor: &mut Editor<Words, MemHistory>, prompt: &str, keep: bool) -> io::Result<Option<Vec<u8>>> {
    loop {
        match editor.readline(prompt) {
            Ok(line) => {
                if keep && !line.is_empty() {
                    let _ = editor.add_history_entry(&line);
                }
                return Ok(Some(line.into_bytes()));
            }
            // Ctrl-C gives a line up, as in every shell.
            Err(ReadlineError::Interrupted) => {}
            Err(ReadlineError::Eof) => return Ok(None),
            Err(error) => return Err(io::Error::other(error)),
        }
    }
}

/// The starts of lines that Tab completes.
pub(super) struct Words;

const WORDS: [&str; 16] = [
    "AUTH ",
    "DATA",
    "EHLO ",
    "EXPN ",
    "HELO ",
    "HELP",
    "MAIL FROM:<",
    "NOOP",
    "QUIT",
    "RCPT TO:<",
    "RSET",
    "STARTTLS",
    "VRFY ",
    "auth",
    "quit",
    "starttls",
];

impl Completer for Words {
    type Candidate = String;

    fn complete(&self, line: &str, at: usize, _: &Context<'_>) -> rustyline::Result<(usize, Vec<String>)> {
        let start = line.get(..at).unwrap_or(line);
        let fits = |word: &&&str| {
            word.get(..start.len()).is_some_and(|head| head.eq_ignore_ascii_case(start)) && !start.is_empty()
        };
        // A helper and a command that begin alike: the case decides.
        let exact: Vec<String> = WORDS.iter().filter(|word| word.starts_with(start)).map(ToString::to_string).collect();
        if !exact.is_empty() && !start.is_empty() {
            return Ok((0, exact));
        }
        Ok((0, WORDS.iter().filter(fits).map(ToString::to_string).collect()))
    }
}

impl Hinter for Words {
    type Hint = String;
}
impl Highlighter for Words {}
impl Validator for Words {}
impl Helper for Words {}
