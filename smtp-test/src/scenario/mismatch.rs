//! What is said when a peer does not keep to the file.

use std::fmt;
use std::io;
use std::time::Duration;

use super::{Scenario, Step, escape};
use crate::recorder::Transcript;

/// The other side did not keep to the scenario. Prints as a message for people, with the conversation so far.
#[derive(Debug)]
#[non_exhaustive]
pub struct Mismatch {
    /// The scenario's name.
    pub file: String,
    /// The line of the scenario, from 1.
    pub line: usize,
    /// That line.
    pub expected: String,
    /// What came instead.
    pub got: Got,
    /// What was said so far.
    pub transcript: Transcript,
}

/// What came instead of the expected.
#[derive(Debug)]
#[non_exhaustive]
pub enum Got {
    /// Other octets; those of the first line that differs.
    Octets(Vec<u8>),
    /// A reply came to its end without the line that was looked for.
    EndOfReply,
    /// The other side closed; before that came these octets.
    Closed(Vec<u8>),
    /// Nothing more for so long, after these octets.
    Silence(Duration, Vec<u8>),
    /// The channel broke.
    Broken(io::Error),
}

impl fmt::Display for Got {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let after =
            |octets: &[u8]| if octets.is_empty() { String::new() } else { format!(" after {}", escape(octets)) };
        match self {
            Self::Octets(octets) => f.write_str(&escape(octets)),
            Self::EndOfReply => f.write_str("the reply ended without it"),
            Self::Closed(octets) => write!(f, "the channel was closed{}", after(octets)),
            Self::Silence(time, octets) => write!(f, "silence for {} s{}", time.as_secs_f32(), after(octets)),
            Self::Broken(error) => write!(f, "the channel broke: {error}"),
        }
    }
}

impl Mismatch {
    pub(crate) fn new(scenario: &Scenario, step: &Step, got: Got, transcript: &Transcript) -> Self {
        Self {
            file: scenario.name().to_owned(),
            line: step.line,
            expected: step.source.clone(),
            got,
            transcript: transcript.clone(),
        }
    }
}

impl fmt::Display for Mismatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}:{}:", self.file, self.line)?;
        writeln!(f, "  expected  {}", self.expected)?;
        writeln!(f, "  got       {}", self.got)?;
        writeln!(f, "  after this conversation:")?;
        for line in self.transcript.to_string().lines() {
            writeln!(f, "    {line}")?;
        }
        Ok(())
    }
}

impl std::error::Error for Mismatch {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match &self.got {
            Got::Broken(error) => Some(error),
            Got::Octets(_) | Got::EndOfReply | Got::Closed(_) | Got::Silence(..) => None,
        }
    }
}
