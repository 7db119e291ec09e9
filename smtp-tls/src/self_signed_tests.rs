use super::*;

fn der(file: &Path) -> x509::Facts {
    x509::read(&CertificateDer::from_pem_file(file).unwrap()).unwrap()
}

#[test]
fn the_second_run_finds_what_the_first_made() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path().join("a/b");
    let first = SelfSigned::load_or_create(&dir, &["mx.example", "192.0.2.7"]).unwrap();
    assert!(first.is_new());
    let before = fs::read(dir.join(IDENTITY_FILE)).unwrap();
    let second = SelfSigned::load_or_create(&dir, &["MX.example"]).unwrap();
    assert!(!second.is_new());
    assert_eq!(first.pin(), second.pin());
    assert_eq!(before, fs::read(dir.join(IDENTITY_FILE)).unwrap());
    let facts = der(second.certificate_file());
    assert_eq!(facts.dns_names, ["localhost", "mx.example"]);
    let addresses = ["127.0.0.1", "::1", "192.0.2.7"].map(|ip| ip.parse::<std::net::IpAddr>().unwrap());
    assert_eq!(facts.addresses, addresses);
    assert!(!fs::read_to_string(second.certificate_file()).unwrap().contains("PRIVATE"));
    // Nothing temporary is left behind.
    let mut names: Vec<_> = fs::read_dir(&dir).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    names.sort();
    assert_eq!(names, [CERTIFICATE_FILE, IDENTITY_FILE]);
}

#[test]
fn renewal_and_new_names_keep_the_key() {
    let dir = tempfile::tempdir().unwrap();
    let now = SystemTime::now();
    let first = SelfSigned::load_or_create_at(dir.path(), &["a.example"], now).unwrap();
    let named = SelfSigned::load_or_create_at(dir.path(), &["b.example", "0:0::1"], now).unwrap();
    assert_eq!(first.pin(), named.pin());
    assert_eq!(der(named.certificate_file()).dns_names, ["localhost", "a.example", "b.example"]);
    assert!(!named.is_new());

    let nearly = now + Duration::from_secs(340 * DAY);
    let renewed = SelfSigned::load_or_create_at(dir.path(), &[], nearly).unwrap();
    assert_eq!(first.pin(), renewed.pin());
    assert!(renewed.not_after() > nearly + Duration::from_secs(364 * DAY));
    assert_eq!(der(renewed.certificate_file()).dns_names, ["localhost", "a.example", "b.example"]);
    assert!(der(renewed.certificate_file()).not_before < nearly);
}

#[test]
fn a_lost_certificate_file_comes_back() {
    let dir = tempfile::tempdir().unwrap();
    let first = SelfSigned::load_or_create(dir.path(), &[]).unwrap();
    fs::remove_file(first.certificate_file()).unwrap();
    let second = SelfSigned::load_or_create(dir.path(), &[]).unwrap();
    assert_eq!(pin_in(second.certificate_file()), first.pin());
}

fn pin_in(file: &Path) -> Pin {
    Pin::of_spki(&der(file).spki)
}

#[test]
fn a_damaged_file_is_not_overwritten() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join(IDENTITY_FILE);
    publish(&file, b"precious", Publish::IfMissing).unwrap();
    let error = SelfSigned::load_or_create(dir.path(), &[]).unwrap_err().to_string();
    assert!(error.contains(IDENTITY_FILE) && error.contains("remove it"), "{error}");
    assert_eq!(fs::read(&file).unwrap(), b"precious");
}

#[test]
fn two_that_start_at_once_agree() {
    // Many rounds: what can go wrong between them does so rarely.
    for _ in 0..50 {
        let dir = tempfile::tempdir().unwrap();
        let dir = dir.path().join("tls");
        let pins: Vec<_> = std::thread::scope(|scope| {
            let run = || scope.spawn(|| SelfSigned::load_or_create(&dir, &[]).unwrap());
            let all: Vec<_> = (0..8).map(|_| run()).collect();
            all.into_iter().map(|thread| thread.join().unwrap()).collect()
        });
        assert!(pins.iter().all(|made| made.pin() == pins[0].pin()));
        assert_eq!(pins.iter().filter(|made| made.is_new()).count(), 1);
        assert_eq!(pin_in(pins[0].certificate_file()), pins[0].pin());
        let left: Vec<_> = fs::read_dir(&dir).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        assert_eq!(left.len(), 2, "{left:?}");
    }
}

#[test]
fn bad_names_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let error = SelfSigned::load_or_create(dir.path(), &["bücher.example"]).unwrap_err().to_string();
    assert!(error.contains("xn--"), "{error}");
}

#[cfg(unix)]
mod modes {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    fn mode(path: &Path) -> u32 {
        fs::metadata(path).unwrap().permissions().mode() & 0o777
    }

    #[test]
    fn the_key_is_private() {
        let dir = tempfile::tempdir().unwrap();
        let dir = dir.path().join("tls");
        let made = SelfSigned::load_or_create(&dir, &[]).unwrap();
        assert_eq!((mode(&dir), mode(&made.identity_file), mode(made.certificate_file())), (0o700, 0o600, 0o600));
    }

    /// The umask belongs to the whole process, so a shell sets it for a process of its own: this test once more.
    #[test]
    fn whatever_the_umask() {
        const DIR: &str = "SMTP_TLS_TEST_UMASK_DIR";
        if let Some(dir) = std::env::var_os(DIR) {
            let made = SelfSigned::load_or_create(Path::new(&dir), &[]).unwrap();
            assert_eq!((mode(Path::new(&dir)), mode(&made.identity_file)), (0o700, 0o600));
            assert_eq!(mode(made.certificate_file()), 0o600);
            return;
        }
        for umask in ["000", "022", "777"] {
            let dir = tempfile::tempdir().unwrap();
            let status = std::process::Command::new("sh")
                .args(["-c", &format!("umask {umask}; exec \"$0\" whatever_the_umask")])
                .arg(std::env::current_exe().unwrap())
                .env(DIR, dir.path().join("tls"))
                .status()
                .unwrap();
            assert!(status.success(), "umask {umask}");
        }
    }

    #[test]
    fn an_exposed_key_is_not_used() {
        let dir = tempfile::tempdir().unwrap();
        let made = SelfSigned::load_or_create(dir.path(), &[]).unwrap();
        fs::set_permissions(&made.identity_file, fs::Permissions::from_mode(0o640)).unwrap();
        let error = SelfSigned::load_or_create(dir.path(), &[]).unwrap_err().to_string();
        assert!(error.contains("640") && error.contains("chmod 600"), "{error}");
    }
}
