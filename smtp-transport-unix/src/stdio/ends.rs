//! What standard input and output are, and how they are taken over.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::net::Shutdown;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::pin::Pin;
use std::task::{Context, Poll};

use smtp_core::channel::{ChannelInfo, Peer};
use socket2::{Domain, SockRef, Type};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::unix::pipe;
use tokio::net::{TcpStream, UnixStream};

use crate::peer::{canonical, facts};

/// Both directions, and the facts of the channel.
pub(super) struct Ends {
    pub(super) input: Input,
    pub(super) output: Output,
    pub(super) facts: ChannelInfo,
}

/// Where octets come from.
pub(super) enum Input {
    Tcp(TcpStream),
    Unix(UnixStream),
    Other(Box<dyn AsyncRead + Send + Unpin>),
}

/// Where octets go.
pub(super) enum Output {
    /// To the socket that they come from.
    SameSocket,
    Own(Box<dyn AsyncWrite + Send + Unpin>),
}

impl Input {
    pub(super) fn poll_read(&mut self, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match self {
            Self::Tcp(socket) => Pin::new(socket).poll_read(cx, buf),
            Self::Unix(socket) => Pin::new(socket).poll_read(cx, buf),
            Self::Other(input) => Pin::new(input).poll_read(cx, buf),
        }
    }

    /// The socket, to be written to.
    pub(super) fn socket(&mut self) -> Option<&mut (dyn AsyncWrite + Unpin)> {
        match self {
            Self::Tcp(socket) => Some(socket),
            Self::Unix(socket) => Some(socket),
            Self::Other(_) => None,
        }
    }

    /// Ends a socket at once when it is dropped, and a Unix one even if the program that started this one holds it too.
    /// It can only fail on one that is dead already.
    pub(super) fn abort(&self) {
        match self {
            Self::Tcp(socket) => {
                let _ = socket.set_zero_linger();
            }
            Self::Unix(socket) => {
                let _ = SockRef::from(socket).shutdown(Shutdown::Both);
            }
            Self::Other(_) => {}
        }
    }
}

/// Takes standard input and output.
pub(super) fn take() -> io::Result<Ends> {
    io::stdout().flush()?;
    let input = Taken::new(io::stdin().as_fd())?;
    let output = Taken::new(io::stdout().as_fd())?;
    let error = Taken::new(io::stderr().as_fd());

    let null = OpenOptions::new().read(true).write(true).open("/dev/null")?;
    rustix::stdio::dup2_stdin(&null)?;
    rustix::stdio::dup2_stdout(&null)?;
    if input.is_socket && error.is_ok_and(|error| error.file_id == input.file_id) {
        rustix::stdio::dup2_stderr(&null)?;
    }

    Ends::new(input, output)
}

/// Takes a duplicate of these two, which need not be those of the process.
pub(super) fn on(input: impl AsFd, output: impl AsFd) -> io::Result<Ends> {
    Ends::new(Taken::new(input)?, Taken::new(output)?)
}

impl Ends {
    fn new(input: Taken, output: Taken) -> io::Result<Self> {
        let output = if input.is_socket && input.file_id == output.file_id {
            Output::SameSocket
        } else {
            Output::Own(output.into_output()?)
        };
        let (input, facts) = input.into_input()?;
        Ok(Self { input, output, facts })
    }
}

/// A duplicate of a descriptor, and what it is.
struct Taken {
    file: File,
    is_socket: bool,
    is_pipe: bool,
    /// Device and inode.
    file_id: (u64, u64),
}

impl Taken {
    fn new(from: impl AsFd) -> io::Result<Self> {
        let file = File::from(from.as_fd().try_clone_to_owned()?);
        let metadata = file.metadata()?;
        let kind = metadata.file_type();
        let file_id = (metadata.dev(), metadata.ino());
        Ok(Self { file, is_socket: kind.is_socket(), is_pipe: kind.is_fifo(), file_id })
    }

    fn into_input(self) -> io::Result<(Input, ChannelInfo)> {
        if self.is_socket {
            return Ok(match Socket::new(self.file.into())? {
                Socket::Unix(socket) => {
                    let facts = facts("stdio", socket.peer_cred());
                    (Input::Unix(socket), facts)
                }
                Socket::Tcp(socket) => {
                    let local = socket.local_addr().ok().map(canonical);
                    let peer = Peer::Ip(canonical(socket.peer_addr()?));
                    (Input::Tcp(socket), ChannelInfo { local, ..ChannelInfo::new("stdio", peer) })
                }
            });
        }
        let input: Box<dyn AsyncRead + Send + Unpin> = if self.is_pipe {
            Box::new(pipe::Receiver::from_owned_fd(self.file.into())?)
        } else {
            Box::new(tokio::fs::File::from_std(self.file))
        };
        let facts = ChannelInfo { secure: true, ..ChannelInfo::new("stdio", Peer::Named("standard input".into())) };
        Ok((Input::Other(input), facts))
    }

    fn into_output(self) -> io::Result<Box<dyn AsyncWrite + Send + Unpin>> {
        Ok(if self.is_socket {
            match Socket::new(self.file.into())? {
                Socket::Tcp(socket) => Box::new(socket),
                Socket::Unix(socket) => Box::new(socket),
            }
        } else if self.is_pipe {
            Box::new(pipe::Sender::from_owned_fd(self.file.into())?)
        } else {
            Box::new(tokio::fs::File::from_std(self.file))
        })
    }
}

/// A connection that was handed down.
enum Socket {
    Tcp(TcpStream),
    Unix(UnixStream),
}

impl Socket {
    fn new(socket: OwnedFd) -> io::Result<Self> {
        let socket = socket2::Socket::from(socket);
        let domain = socket.local_addr()?.domain();
        if socket.r#type()? != Type::STREAM {
            let text = "standard input or output is a socket that carries datagrams, not a stream";
            return Err(io::Error::new(io::ErrorKind::InvalidInput, text));
        }
        // What listens (`inetd wait`) or is not connected any more has no peer.
        socket.peer_addr().map_err(|error| {
            let text = format!("standard input or output is a socket without a connection: {error}");
            io::Error::new(error.kind(), text)
        })?;
        socket.set_nonblocking(true)?;
        match domain {
            Domain::IPV4 | Domain::IPV6 => {
                // The sessions above write once per group of replies: there is nothing for Nagle to gather.
                socket.set_tcp_nodelay(true)?;
                TcpStream::from_std(socket.into()).map(Self::Tcp)
            }
            Domain::UNIX => UnixStream::from_std(socket.into()).map(Self::Unix),
            _ => {
                let text = "standard input or output is a socket that is neither TCP nor Unix";
                Err(io::Error::new(io::ErrorKind::InvalidInput, text))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::{ErrorKind, Read};

    use super::*;

    #[tokio::test]
    async fn an_abort_is_no_orderly_end() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let mut client = std::net::TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (input, facts) = Taken::new(listener.accept().unwrap().0).unwrap().into_input().unwrap();
        assert_eq!(facts.peer, Peer::Ip(client.local_addr().unwrap()));
        assert_eq!((facts.local, facts.secure), (Some(listener.local_addr().unwrap()), false));
        input.abort();
        drop(input);
        assert_eq!(client.read(&mut [0; 8]).unwrap_err().kind(), ErrorKind::ConnectionReset);

        let (mut client, server) = std::os::unix::net::UnixStream::pair().unwrap();
        let kept_by_the_parent = server.try_clone().unwrap();
        let (input, _) = Taken::new(server).unwrap().into_input().unwrap();
        input.abort();
        assert_eq!(client.read(&mut [0; 8]).unwrap(), 0);
        drop(kept_by_the_parent);
    }
}
