//! Sockets that a service manager has opened for this process.

use std::io;
use std::net::{TcpListener, UdpSocket};
use std::os::fd::AsFd;

use listenfd::ListenFd;
use socket2::SockRef;

use crate::listener::UnixListener;

/// A socket that was handed down.
#[derive(Debug)]
pub struct Inherited {
    /// Its name: `FileDescriptorName=` of a systemd socket unit.
    pub name: Option<String>,
    /// The socket.
    pub socket: Socket,
}

/// The kinds of sockets that can be handed down.
#[derive(Debug)]
#[non_exhaustive]
pub enum Socket {
    /// A Unix socket that listens.
    Unix(UnixListener),
    /// A TCP socket that listens; a TCP transport can take it over.
    Tcp(TcpListener),
    /// A bound UDP socket; a QUIC transport can take it over.
    Udp(UdpSocket),
}

/// The sockets that a service manager has opened for this process, in its order; none if there is no such manager.
///
/// This is systemd's protocol, which others speak too (sd_listen_fds(3)): `LISTEN_FDS`, `LISTEN_PID` and
/// `LISTEN_FDNAMES` in the environment, descriptors from 3 on. The first two are removed, so that a second call and
/// child programs find none: call it in the beginning, while nobody else reads the environment. It has to be called in
/// a tokio runtime.
///
/// A process that may not bind a port below 1024, or may not write into a folder such as `/run`, gets its sockets this
/// way; and no connection is lost while it is restarted, since the sockets stay open.
///
/// # Errors
/// If one is something else: a connection, where `Accept=no` is missing, or no socket at all.
pub fn inherited() -> io::Result<Vec<Inherited>> {
    let names = std::env::var("LISTEN_FDNAMES").unwrap_or_default();
    let mut names = names.split(':').map(|name| Some(name.to_owned()).filter(|name| !name.is_empty()));
    let mut sockets = ListenFd::from_env();
    (0..sockets.len())
        .map(|index| Ok(Inherited { name: names.next().flatten(), socket: take(&mut sockets, index)? }))
        .collect()
}

fn take(sockets: &mut ListenFd, index: usize) -> io::Result<Socket> {
    // Each attempt checks the kind, and leaves the descriptor where it is if it is of another.
    if let Ok(Some(socket)) = sockets.take_unix_listener(index) {
        check_listens(&socket, index)?;
        return UnixListener::from_std(socket).map(Socket::Unix);
    }
    if let Ok(Some(socket)) = sockets.take_tcp_listener(index) {
        check_listens(&socket, index)?;
        return Ok(Socket::Tcp(socket));
    }
    if let Ok(Some(socket)) = sockets.take_udp_socket(index) {
        return Ok(Socket::Udp(socket));
    }
    let text = format!("what was handed down as number {} is not a Unix, TCP or UDP socket", index + 1);
    Err(io::Error::new(io::ErrorKind::InvalidInput, text))
}

fn check_listens(socket: &impl AsFd, index: usize) -> io::Result<()> {
    if listens(&SockRef::from(socket))? {
        return Ok(());
    }
    let text = format!(
        "what was handed down as number {} does not listen: a connection? Set Accept=no, or serve it as standard input",
        index + 1
    );
    Err(io::Error::new(io::ErrorKind::InvalidInput, text))
}

#[cfg(any(target_os = "linux", target_os = "android", target_os = "freebsd"))]
fn listens(socket: &SockRef<'_>) -> io::Result<bool> {
    socket.is_listener()
}

/// Other systems do not tell; accepting will.
#[cfg(not(any(target_os = "linux", target_os = "android", target_os = "freebsd")))]
fn listens(_: &SockRef<'_>) -> io::Result<bool> {
    Ok(true)
}
