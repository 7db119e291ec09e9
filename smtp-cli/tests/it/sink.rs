//! `smtp sink`.

use crate::play::{Server, run, send, smtp};

#[test]
fn it_counts_what_it_discards() {
    for signal in ["INT", "TERM"] {
        let server = Server::start(&["sink", "--listen", "smtp://127.0.0.1:0", "--listen", "smtps://127.0.0.1:0"], 2);
        for url in &server.urls {
            let more = ["--to", "a@anywhere.example", "--to", "b@elsewhere.example", "--insecure"];
            assert_eq!(send(url, &more).code, Some(0));
        }
        server.signal(signal);
        let line = server.line().unwrap();
        let fields: Vec<(&str, &str)> = line.split(' ').skip(1).map(|field| field.split_once('=').unwrap()).collect();
        let names: Vec<&str> = fields.iter().map(|(name, _)| *name).collect();
        assert!(line.starts_with("totals "), "{line}");
        assert_eq!(names, ["messages", "recipients", "octets", "sessions", "seconds"]);
        assert_eq!((fields[0].1, fields[1].1, fields[3].1), ("2", "4", "2"), "{line}");
        assert!(fields[2].1.parse::<u64>().unwrap() > 400);
        assert_eq!(server.finish().code, Some(0));
    }
}

#[test]
fn it_serves_this_machine_only_unless_told() {
    let refused = run(smtp(["sink", "--listen", "smtp://0.0.0.0:0"]));
    assert_eq!(refused.code, Some(64), "{refused:?}");
    assert!(refused.stderr.contains("--exposed"), "{refused:?}");
    let server = Server::start(&["sink", "--listen", "smtp://0.0.0.0:0", "--exposed"], 1);
    let url = server.url().replace("0.0.0.0", "127.0.0.1");
    assert_eq!(send(&url, &["--to", "a@anywhere.example"]).code, Some(0));
}
