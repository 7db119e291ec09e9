//! Sessions with child programs, good and bad ones.

use std::io::ErrorKind;
use std::time::{Duration, Instant};

use smtp_core::channel::Peer;
use smtp_core::stream::{CloseCode, ConnectStep, Connector, Listener, Plain, Target, TlsPolicy};
use smtp_test::kit::{self, Pair};
use smtp_transport_unix::PipeConnector;
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::support::{CODES, CONVERSATION, Stream, codes, example, folder, listen};

/// The address is not looked at.
fn anywhere() -> Target {
    Target::host("anywhere.example".parse().unwrap(), 25)
}

async fn start(connector: PipeConnector) -> Stream {
    connector.connect(&anywhere(), &TlsPolicy::NONE).await.unwrap().open().await.unwrap()
}

/// A program in the shell's language.
fn script(text: &str) -> PipeConnector {
    PipeConnector::new("/bin/sh").arguments(["-c", text])
}

#[tokio::test]
async fn a_program_serves_a_session() {
    let mut io = start(PipeConnector::new(example("sink"))).await;
    let info = io.info();
    assert_eq!((info.transport, info.secure, info.can_upgrade), ("pipe", true, false));
    assert!(matches!(&info.peer, Peer::Named(name) if name.ends_with("/sink")));
    io.write_all(CONVERSATION).await.unwrap();
    io.flush().await.unwrap();
    let mut said = String::new();
    io.read_to_string(&mut said).await.unwrap();
    assert_eq!(codes(&said), CODES);
}

/// Both this end's pipes and the program's standard input and output, in one chain: client → pipe → program → socket.
#[tokio::test]
async fn pipes_on_both_sides_of_a_program_are_a_byte_stream() {
    let folder = folder();
    let path = folder.path().join("kit");
    let listener = listen(&path);
    let connector = PipeConnector::new(example("relay")).arguments([path.clone()]);
    let make = async || {
        let mut connection = connector.connect(&anywhere(), &TlsPolicy::NONE).await.map_err(std::io::Error::other)?;
        let client = connection.open().await?;
        let server = listener.accept().await?.accept().await?.unwrap();
        // The kit wants both ends to have one name for the transport; here they are two.
        let facts = smtp_core::channel::ChannelInfo { peer: Peer::Named("relay".into()), ..client.info() };
        Ok(Pair::boxed(client, Box::new(Plain::new(server, facts))))
    };
    println!("{}", kit::check(make).await.unwrap());
}

#[tokio::test]
async fn a_half_close_reaches_the_program_and_its_last_words_reach_us() {
    let mut io = start(script("wc -c; echo done")).await;
    io.write_all(b"12345").await.unwrap();
    io.shutdown().await.unwrap();
    let mut said = String::new();
    io.read_to_string(&mut said).await.unwrap();
    assert_eq!(said.split_whitespace().collect::<Vec<_>>(), ["5", "done"]);
    io.shutdown().await.unwrap();
    assert_eq!(io.write_all(b"x").await.unwrap_err().kind(), ErrorKind::BrokenPipe);
}

#[tokio::test]
async fn a_program_that_fails_is_an_error_with_its_last_words() {
    for (text, expected) in [
        ("echo 'no route to host' >&2; exit 255", "/bin/sh ended with exit status: 255: no route to host"),
        ("kill -9 $$", "/bin/sh ended with signal: 9"),
        ("yes x | head -c 100000 >&2; echo end >&2; exit 3", "end"),
    ] {
        let mut io = start(script(text)).await;
        let error = io.read(&mut [0; 8]).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::UnexpectedEof, "{error}");
        let error = error.to_string();
        assert!(error.starts_with("/bin/sh ended with") && error.contains(expected), "{error}");
        assert!(error.len() < 700, "{error}");
        // Said once; then it is simply over.
        assert_eq!(io.read(&mut [0; 8]).await.unwrap(), 0);
    }
    // One that ends well has just ended.
    let mut io = start(script("echo 421 busy; exit 0")).await;
    let mut said = String::new();
    io.read_to_string(&mut said).await.unwrap();
    assert_eq!(said, "421 busy\n");
}

#[tokio::test]
async fn a_program_that_dies_midway_is_an_error_behind_what_it_said() {
    let mut io = start(script("echo 220 hello; read line; exit 1")).await;
    let mut said = vec![0; 10];
    io.read_exact(&mut said).await.unwrap();
    assert_eq!(said, b"220 hello\n");
    io.write_all(b"EHLO x\r\n").await.unwrap();
    assert!(io.read(&mut [0; 8]).await.unwrap_err().to_string().contains("exit status: 1"));
}

#[tokio::test]
async fn the_end_of_output_does_not_wait_for_the_program_for_ever() {
    let mut io = start(script("exec >&-; sleep 60")).await;
    let begin = Instant::now();
    assert_eq!(io.read(&mut [0; 8]).await.unwrap(), 0);
    assert!(begin.elapsed() < Duration::from_secs(5));
}

#[tokio::test]
async fn arguments_arrive_as_they_are_and_the_environment_is_empty() {
    let odd = ["$HOME `id`", "a  b", "", "'\"\\", "*", "ü\n"];
    let program = "for a in \"$@\"; do printf '[%s]' \"$a\"; done; /usr/bin/env";
    let connector =
        PipeConnector::new("/bin/sh").arguments(["-c", program, "sh"]).arguments(odd).environment("ONE", "1 2");
    assert!(!format!("{connector:?}").contains("1 2"), "values of the environment can be secrets");
    let mut said = String::new();
    start(connector).await.read_to_string(&mut said).await.unwrap();
    let (arguments, environment) = said.split_at(said.rfind(']').unwrap() + 1);
    assert_eq!(arguments, odd.map(|word| format!("[{word}]")).concat());
    // The shell itself adds PWD, SHLVL and _.
    let mut names: Vec<_> = environment.lines().filter_map(|line| Some(line.split_once('=')?.0)).collect();
    names.retain(|name| !["PWD", "OLDPWD", "SHLVL", "_"].contains(name));
    assert_eq!(names, ["ONE"], "{environment}");
}

#[tokio::test]
async fn a_folder_and_variables_can_be_passed_on() {
    let folder = folder();
    let path = folder.path().canonicalize().unwrap();
    let connector = script("pwd -P; echo $PATH").folder(&path).inherit("PATH").inherit("SMTP_NO_SUCH_VARIABLE");
    let mut said = String::new();
    start(connector).await.read_to_string(&mut said).await.unwrap();
    assert_eq!(said, format!("{}\n{}\n", path.display(), std::env::var("PATH").unwrap()));
}

#[tokio::test]
async fn what_cannot_be_started_is_an_error_in_words() {
    for (program, transient) in [("/no/such/program", true), ("/etc/passwd", true), ("/bin/sh\0", false)] {
        let error = PipeConnector::new(program).connect(&anywhere(), &TlsPolicy::NONE).await.map(drop).unwrap_err();
        assert_eq!((error.transient, error.step), (transient, ConnectStep::Connect), "{error}");
        assert!(error.to_string().contains("cannot start"), "{error}");
    }
    let error = script("exit").connect(&anywhere(), &TlsPolicy::REQUIRED).await.map(drop).unwrap_err();
    assert_eq!((error.transient, error.step), (false, ConnectStep::Tls), "{error}");
}

/// A program that writes its process number and then sits there, whatever happens to its input.
async fn stubborn(folder: &TempDir, grace: Duration) -> (Stream, String) {
    let pid = folder.path().join("pid");
    let text = format!("echo $$ > {0}.new; mv {0}.new {0}; exec sleep 600", pid.display());
    let io = start(script(&text).inherit("PATH").grace(grace)).await;
    while !pid.exists() {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    (io, std::fs::read_to_string(pid).unwrap().trim().to_owned())
}

fn is_alive(pid: &str) -> bool {
    std::path::Path::new("/proc").join(pid).exists()
}

/// How long it takes until the program has ended and has been waited for.
async fn gone(pid: &str) -> Duration {
    let begin = Instant::now();
    while is_alive(pid) {
        assert!(begin.elapsed() < Duration::from_secs(5), "{pid} is still there");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    begin.elapsed()
}

#[cfg(target_os = "linux")]
#[tokio::test]
async fn a_program_that_does_not_end_is_killed() {
    let (io, pid) = stubborn(&folder(), Duration::from_millis(300)).await;
    assert!(is_alive(&pid));
    drop(io);
    let took = gone(&pid).await;
    assert!(took >= Duration::from_millis(250), "{took:?}");

    let (io, pid) = stubborn(&folder(), Duration::from_secs(600)).await;
    io.abort(CloseCode::Cancelled);
    gone(&pid).await;
}

#[cfg(target_os = "linux")]
#[test]
fn a_program_does_not_outlive_its_runtime() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let (io, pid) = runtime.block_on(stubborn(&folder(), Duration::from_secs(600)));
    drop(runtime);
    drop(io);
    // Nobody is left to wait for it, so a dead one stays in the table.
    let begin = Instant::now();
    loop {
        let status = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_else(|_| ") Z".to_owned());
        if status.rsplit_once(") ").is_some_and(|(_, rest)| rest.starts_with('Z')) {
            break;
        }
        assert!(begin.elapsed() < Duration::from_secs(5), "{status}");
        std::thread::sleep(Duration::from_millis(5));
    }
}
