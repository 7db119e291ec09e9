//! Network namespaces, by ip(8), each with a name that no other process uses.

use std::fs::{self, File};
use std::io;
use std::os::fd::AsFd;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread::{self, JoinHandle};

use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

/// Where ip(8) keeps the names.
const FOLDER: &str = "/run/netns";
const PREFIX: &str = "smtp-netem-";

/// A network namespace. It goes when this is dropped, also in a panic.
#[derive(Debug)]
pub struct Namespace {
    name: String,
}

impl Namespace {
    pub(crate) fn new(letter: char) -> io::Result<Self> {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let name = format!("{PREFIX}{}-{number}-{letter}", std::process::id());
        ip(&["netns", "add", &name])?;
        Ok(Self { name })
    }

    /// Its name, for `ip netns exec`.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// A program to be run in it. It and what it starts keep the namespace alive, if not its name, until they end.
    #[must_use]
    pub fn command(&self, program: &str) -> Command {
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &self.name, program]);
        command
    }

    /// Moves the calling thread into it, for good. Sockets are of the namespace in which they were made, so a runtime
    /// of one thread (tokio's `current_thread`) that is made here lives here altogether.
    ///
    /// # Errors
    /// What the system says, for instance that this is not root.
    pub fn enter(&self) -> io::Result<()> {
        enter(&self.name)
    }

    /// A thread in it.
    ///
    /// # Errors
    /// In the thread's result, if it cannot [`Namespace::enter`].
    pub fn spawn<T: Send + 'static>(&self, f: impl FnOnce() -> T + Send + 'static) -> JoinHandle<io::Result<T>> {
        let name = self.name.clone();
        thread::spawn(move || enter(&name).map(|()| f()))
    }

    /// `ip -n NAME ARGUMENTS…`
    pub(crate) fn ip(&self, arguments: &[&str]) -> io::Result<()> {
        let mut all = vec!["-n", &self.name];
        all.extend(arguments);
        ip(&all)
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        // There is nobody to tell.
        let _ = ip(&["netns", "del", &self.name]);
    }
}

fn enter(name: &str) -> io::Result<()> {
    let file = File::open(Path::new(FOLDER).join(name))?;
    Ok(move_into_link_name_space(file.as_fd(), Some(LinkNameSpaceType::Network))?)
}

/// Removes the namespaces of processes that were killed before they could.
pub(crate) fn sweep() {
    let Ok(names) = fs::read_dir(FOLDER) else { return };
    for name in names.flatten().filter_map(|entry| entry.file_name().into_string().ok()) {
        let owner = name.strip_prefix(PREFIX).and_then(|rest| rest.split('-').next());
        if owner.is_some_and(|pid| !Path::new("/proc").join(pid).exists()) {
            let _ = ip(&["netns", "del", &name]);
        }
    }
}

pub(crate) fn ip(arguments: &[&str]) -> io::Result<()> {
    let output = Command::new("ip").args(arguments).stdin(Stdio::null()).output()?;
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr);
    Err(io::Error::other(format!("ip {}: {}", arguments.join(" "), said.trim())))
}
