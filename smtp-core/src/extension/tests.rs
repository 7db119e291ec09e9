//! The RFCs' own examples, values that read back as they were written, and values that do not read.

use alloc::string::{String, ToString};
use alloc::vec::Vec;

use proptest::prelude::*;

use super::*;
use crate::types::{Command, Envelope};
use crate::wire::decode_command;

/// Everything that has terms, limits or promises is offered.
fn with_context<T>(f: impl FnOnce(&Context<'_>) -> T) -> T {
    let mut channel = ChannelInfo::memory("test");
    channel.tls = Some(crate::channel::TlsInfo::default().into());
    let promises: Vec<&'static str> = Registry::default().iter().map(|e| e.keyword).collect();
    let terms = Terms {
        deliver_by_min: 60,
        priority_profile: Some("MIXER"),
        hold_max: 1000,
        clock: Some(|| 1_396_566_060),
        no_soliciting: Some("net.example:ADV,org.example:SPAM".into()),
    };
    f(&Context {
        channel: &channel,
        max_size: 1000,
        limits: TransactionLimits { messages: Some(7), recipients: Some(100), recipient_domains: None },
        mechanisms: "PLAIN",
        authenticated: false,
        lmtp: false,
        promises: &promises,
        terms: &terms,
        forwarding: Forwarding::default(),
    })
}

fn envelope(lines: &[&str]) -> Envelope {
    let (mut mail, mut recipients) = (None, Vec::new());
    for line in lines {
        match decode_command(line.as_bytes()).unwrap() {
            Command::Mail(m) => mail = Some(m),
            Command::Rcpt(r) => recipients.push(r),
            other => panic!("{other:?}"),
        }
    }
    Envelope { mail: mail.unwrap(), recipients }
}

fn read<P: Parameter>(value: &str) -> Result<P, Invalid> {
    P::from_value((!value.is_empty()).then_some(value))
}

fn written<P: Parameter>(parameter: &P) -> String {
    let mut text = String::new();
    parameter.write_value(&mut text).unwrap();
    text
}

#[test]
fn rfc_3461_section_10() {
    let Envelope { mail, recipients } = envelope(&[
        "MAIL FROM:<Alice@Example.COM> RET=HDRS ENVID=QQ314159",
        "RCPT TO:<Bob@Example.COM> NOTIFY=SUCCESS ORCPT=rfc822;Bob@Example.COM",
        "RCPT TO:<Carol@Ivory.EDU> NOTIFY=FAILURE ORCPT=rfc822;Carol@Ivory.EDU",
        "RCPT TO:<Dana@Ivory.EDU> NOTIFY=SUCCESS,FAILURE ORCPT=rfc822;Dana@Ivory.EDU",
        "RCPT TO:<Eric@Bombs.AF.MIL> NOTIFY=FAILURE ORCPT=rfc822;Eric@Bombs.AF.MIL",
        "RCPT TO:<Fred@Bombs.AF.MIL> NOTIFY=NEVER",
        "RCPT TO:<George@Tax-ME.GOV> NOTIFY=FAILURE ORCPT=rfc822;George@Tax-ME.GOV",
    ]);
    assert_eq!(mail.parameters.get(), Some(Ret::Headers));
    assert_eq!(mail.parameters.get(), Some(EnvelopeId::new("QQ314159").unwrap()));
    let notify: Vec<Notify> = recipients.iter().map(|r| r.parameters.get().unwrap()).collect();
    let failure = Notify { failure: true, ..Notify::NEVER };
    assert_eq!(notify[0], Notify { success: true, ..Notify::NEVER });
    assert_eq!(notify[2], Notify { success: true, ..failure });
    assert_eq!([notify[1], notify[3], notify[5]], [failure; 3]);
    assert_eq!(notify[4], Notify::NEVER);
    let original: OriginalRecipient = recipients[1].parameters.get().unwrap();
    assert_eq!((original.kind(), original.address()), ("rfc822", "Carol@Ivory.EDU"));
    with_context(|context| {
        let registry = Registry::default();
        assert_eq!(registry.check_mail(context, &mail.parameters), Ok(()));
        assert!(recipients.iter().all(|r| registry.check_rcpt(context, &r.parameters).is_ok()));
    });
}

#[test]
fn rfc_6533_section_3() {
    // The three forms of one address.
    for form in
        ["utf-8;j\\x{F6}rg@b\\x{FC}cher.example", "utf-8;jörg@b\\x{FC}cher.example", "UTF-8;jörg@bücher.example"]
    {
        let original: OriginalRecipient = read(form).unwrap();
        assert_eq!(original.address(), "jörg@bücher.example", "{form}");
        assert!(written(&original).ends_with(";j\\x{F6}rg@b\\x{FC}cher.example"));
    }
    let special = OriginalRecipient::new("utf-8", "a+b=c\\d 漢@x").unwrap();
    assert_eq!(written(&special), "utf-8;a\\x{2B}b\\x{3D}c\\x{5C}d\\x{20}\\x{6F22}@x");
}

#[test]
fn rfc_2852_section_4() {
    let by: DeliverBy = read("120;R").unwrap();
    assert_eq!((by.seconds(), by.mode(), by.trace()), (120, ByMode::Return, false));
    assert_eq!(by.after(20).unwrap().seconds(), 100);
    assert_eq!(by.after(120), None);
    let by: DeliverBy = read("-5;nt").unwrap();
    assert_eq!((by.seconds(), by.mode(), by.trace()), (-5, ByMode::Notify, true));
    assert_eq!(written(&by), "-5;NT");
    assert_eq!(by.after(u32::MAX).unwrap().seconds(), -999_999_999);
}

#[test]
fn examples_of_the_others() {
    // RFC 6710 §10
    assert_eq!(read::<Priority>("6").unwrap().get(), 6);
    assert_eq!(read::<Priority>("-3").unwrap().get(), -3);
    // RFC 7293 §7
    let since: ValidSince = read("2014-04-03T23:01:00Z").unwrap();
    assert_eq!((since.unix(), since.or_continue()), (1_396_566_060, false));
    assert!(read::<ValidSince>("1997-11-24T14:22:01-08:00;C").unwrap().or_continue());
    // RFC 4865 §4
    assert_eq!(read::<HoldFor>("86400").unwrap().seconds(), 86400);
    assert_eq!(read::<HoldUntil>("2014-04-03T23:01:00Z").unwrap().unix(), 1_396_566_060);
    // RFC 3865 §2.3
    let solicit: Solicit = read("org.example:ADV:ADLT,net.example:adv").unwrap();
    assert_eq!(solicit.unwanted_by("net.example:ADV"), Some("net.example:adv"));
    assert_eq!(solicit.unwanted_by("org.example:ADV"), None);
    // RFC 9422 §3
    let limits = TransactionLimits::parse("RCPTMAX=20 rcptdomainmax=3 MAILMAX=x FROBNITZ=1 MAILMAX");
    assert_eq!(limits, TransactionLimits { messages: None, recipients: Some(20), recipient_domains: Some(3) });
    // RFC 1985 §5.4
    for node in ["example.org", "@example.com", "#uucp"] {
        assert_eq!(node.parse::<EtrnNode>().unwrap().to_string(), node);
    }
    for bad in ["", "@", "#", "a b", "@@x", "#\u{7}"] {
        assert!(bad.parse::<EtrnNode>().is_err(), "{bad}");
    }
}

#[test]
fn values_that_do_not_read() {
    fn bad<P: Parameter>(values: &[&str]) {
        for value in values {
            assert!(read::<P>(value).is_err(), "{}={value}", P::KEYWORD);
        }
    }
    let long = |n: usize| "x".repeat(n);
    bad::<Ret>(&["", "ALL", "FULL,HDRS"]);
    bad::<EnvelopeId>(&["", "a+2", "a=b", "a+0Ab", "a+FF", &long(101), &"+20".repeat(34)]);
    bad::<Notify>(&["", "NEVER,SUCCESS", "SUCCESS,", ",", "ALWAYS", "SUCCESS FAILURE"]);
    bad::<OriginalRecipient>(&["", "rfc822", "rfc822;", ";a@b", "rf c;a@b", "rfc822;a+2", "rfc822;ü@b", "utf-8;a\\b"]);
    bad::<OriginalRecipient>(&[
        "utf-8;\\x{0A}",
        "utf-8;\\x{D800}",
        "utf-8;\\x{110000}",
        "utf-8;\\x{fc}",
        "utf-8;\\x{0FC}",
    ]);
    bad::<OriginalRecipient>(&[&alloc::format!("rfc822;{}", long(500)), "rfc822;a+0D+0Ab"]);
    bad::<DeliverBy>(&[
        "",
        "120",
        "120;",
        ";R",
        "0;R",
        "-1;R",
        "1;X",
        "1;RTT",
        "1234567890;N",
        "1.5;N",
        "+-1;N",
        "--1;N",
    ]);
    bad::<Priority>(&["", "10", "-10", "-0", "+1", "00", "a", "-"]);
    bad::<HoldFor>(&["", "0", "-1", "1234567890", "1s"]);
    bad::<HoldUntil>(&["", "tomorrow", "2014-04-03", "2014-04-03T23:01:00"]);
    bad::<RequireTls>(&["yes"]);
    bad::<ValidSince>(&["", "yesterday", "2014-04-03T23:01:00Z;X", "2014-04-03T23:01:00Z;", ";C"]);
    bad::<Solicit>(&["", "1a", "a,", ",a", "a b", &long(1001)]);
    bad::<Prdr>(&["yes"]);
    bad::<Size>(&["", "x", "-1", "123456789012345678901"]);
    bad::<BodyType>(&["", "9BIT"]);
    bad::<SmtpUtf8>(&["yes"]);
    bad::<TransactionId>(&["", "<>", "a@b", &alloc::format!("<{}>", long(80))]);
    bad::<Mtrk>(&["", ":1", "abc:", "abc:x", "abc:1234567890", "a,b"]);
    bad::<Conperm>(&["x"]);
    bad::<Conneg>(&["x"]);
    bad::<AuthParameter>(&["", "+ZZ", "%ff", "jo", "a+3", "a=b@c.example"]);
}

#[test]
fn a_parameter_on_the_wrong_command_or_without_its_extension_is_refused_by_name() {
    let registry = Registry::default();
    let check = |mail: bool, text: &str| {
        let parameters = Parameters::new(text).unwrap();
        with_context(|c| if mail { registry.check_mail(c, &parameters) } else { registry.check_rcpt(c, &parameters) })
    };
    // Every rule there is, on the other command.
    for extension in registry.iter() {
        for (rules, mail) in [(extension.mail, false), (extension.rcpt, true)] {
            for rule in rules {
                let refusal = check(mail, rule.keyword).unwrap_err();
                assert_eq!(refusal.reply().code().get(), 555, "{refusal}");
                assert!(refusal.reply().text().starts_with(rule.keyword), "{refusal}");
            }
        }
    }
    // In one known peer these two stand on RCPT.
    assert!(check(true, "BY=120;R MT-PRIORITY=3").is_ok());
    assert!(check(false, "BY=120;R").is_err());
    assert!(check(false, "MT-PRIORITY=3").is_err());
    let bare = with_context(|c| {
        let c = Context { promises: &[], ..*c };
        registry.check_mail(&c, &Parameters::new("RET=FULL").unwrap()).unwrap_err()
    });
    assert_eq!(bare.to_string(), "555 5.5.4 MAIL parameter RET needs DSN, not offered here");
}

#[test]
fn terms_are_held() {
    let registry = Registry::default();
    let mail = |text: &str| {
        let parameters = Parameters::new(text).unwrap();
        with_context(|context| registry.check_mail(context, &parameters)).err().map(|r| r.to_string()[..9].to_string())
    };
    for (text, code) in [
        ("BY=59;R", Some("550 5.4.7")),
        ("BY=59;N", None),
        ("BY=60;R", None),
        ("HOLDFOR=1000", None),
        ("HOLDFOR=1001", Some("501 5.5.4")),
        ("HOLDUNTIL=2014-04-03T23:17:40Z", None),
        ("HOLDUNTIL=2014-04-03T23:17:41Z", Some("501 5.5.4")),
        ("HOLDFOR=1 HOLDUNTIL=2014-04-03T23:01:00Z", Some("501 5.5.4")),
        ("SOLICIT=com.example:ADV", None),
        ("SOLICIT=com.example:ADV,NET.example:ADV", Some("550 5.7.1")),
    ] {
        assert_eq!(mail(text).as_deref(), code, "{text}");
    }
}

#[test]
fn ehlo_shows_the_terms_and_nothing_that_cannot_be_kept() {
    let registry = Registry::default();
    let mut text = String::new();
    with_context(|context| registry.write_ehlo(context, &mut text));
    let shown: Vec<&str> = text.lines().collect();
    for line in [
        "SIZE 1000",
        "AUTH PLAIN",
        "DELIVERBY 60",
        "MT-PRIORITY MIXER",
        "FUTURERELEASE 1000 2014-04-03T23:17:40Z",
        "REQUIRETLS",
        "NO-SOLICITING net.example:ADV,org.example:SPAM",
        "LIMITS MAILMAX=7 RCPTMAX=100",
        "DSN",
        "BURL",
    ] {
        assert!(shown.contains(&line), "{line}: {shown:?}");
    }
    let capabilities = Capabilities::from_ehlo(&alloc::format!("mx{text}"));
    assert_eq!(capabilities.limits().messages, Some(7));
    // Without promises, TLS, terms and SASL.
    let (channel, terms) = (ChannelInfo::memory("test"), Terms::default());
    let bare = Context {
        channel: &channel,
        max_size: 1,
        limits: TransactionLimits::default(),
        mechanisms: "",
        authenticated: false,
        lmtp: true,
        promises: &["REQUIRETLS", "FUTURERELEASE"],
        terms: &terms,
        forwarding: Forwarding::default(),
    };
    let mut text = String::new();
    registry.write_ehlo(&bare, &mut text);
    assert_eq!(text, "\nPIPELINING\nSIZE 1\nENHANCEDSTATUSCODES\n8BITMIME\nCHUNKING\nVRFY\nHELP");
}

/// What a client does where its next hop lacks the extension: the downgrades of each RFC.
#[test]
fn what_becomes_of_each_parameter_without_its_extension() {
    let registry = Registry::default();
    for (parameter, what) in [
        ("SIZE=1", "omit"),
        ("AUTH=<>", "omit"),
        ("BODY=7BIT", "omit"),
        ("BODY=8BITMIME", "5.6.3"),
        ("BODY=BINARYMIME", "5.6.1"),
        ("SMTPUTF8", "5.6.7"),
        ("REQUIRETLS", "5.7.30"),
        ("BY=60;R", "5.4.7"),
        ("BY=60;N", "deliver-by"),
        ("MT-PRIORITY=1", "priority"),
        ("RET=FULL", "omit"),
        ("ENVID=x", "omit"),
        ("NOTIFY=SUCCESS", "dsn"),
        ("NOTIFY=FAILURE", "omit"),
        ("NOTIFY=NEVER", "omit"),
        ("ORCPT=rfc822;a@b", "omit"),
        ("RRVS=2014-04-03T23:01:00Z", "5.7.19"),
        ("RRVS=2014-04-03T23:01:00Z;C", "omit"),
        ("SOLICIT=x", "omit"),
        ("PRDR", "omit"),
        ("HOLDFOR=1", "unsupported"),
    ] {
        let parameters = Parameters::new(parameter).unwrap();
        let (keyword, value) = parameters.iter().next().unwrap();
        let (_, rule) = registry.mail_rule(keyword).or_else(|| registry.rcpt_rule(keyword)).unwrap();
        let lack = match (rule.lacking)(value) {
            Lack::Unsupported => "unsupported".to_string(),
            Lack::Refuse(refusal) => refusal.reply().enhanced().unwrap().to_string(),
            Lack::Omit => "omit".to_string(),
            Lack::Note(Omitted::DSN) => "dsn".to_string(),
            Lack::Note(Omitted::DELIVER_BY) => "deliver-by".to_string(),
            Lack::Note(Omitted::PRIORITY) => "priority".to_string(),
            Lack::Note(other) => panic!("{other:?}"),
        };
        assert_eq!(lack, what, "{parameter}");
    }
}

fn back<P: Parameter + PartialEq + fmt::Debug>(parameter: &P) -> Result<(), TestCaseError> {
    let text = written(parameter);
    prop_assert_eq!(&read::<P>(&text).unwrap(), parameter);
    // It stands in a command line, too, and comes out of it.
    let all = Parameters::default().with(parameter).unwrap();
    let again: P = Parameters::new(all.as_str()).unwrap().get().unwrap();
    prop_assert_eq!(&again, parameter);
    Ok(())
}

proptest! {
    #[test]
    fn every_parameter_reads_back(
        mark in "[ -~]{1,100}",
        kind in "[a-z0-9-]{1,10}",
        ascii in "[ -~]{1,160}",
        unicode in "\\PC{1,60}",
        flags in any::<[bool; 3]>(),
        seconds in -999_999_999i32..=999_999_999,
        priority in -9i8..=9,
        hold in 1u32..=999_999_999,
        unix in 0i64..253_402_300_799,
        classes in "[a-zA-Z][a-zA-Z0-9.:_-]{0,20}(,[a-z][a-z0-9:]{0,9}){0,5}",
        size in any::<u64>(),
        certifier in "[A-Za-z0-9+/]{1,40}={0,2}",
    ) {
        if let Ok(id) = EnvelopeId::new(&mark) {
            back(&id)?;
        }
        for (kind, address) in [(kind.as_str(), ascii.as_str()), ("utf-8", unicode.as_str()), ("utf-8", ascii.as_str())] {
            if let Ok(original) = OriginalRecipient::new(kind, address) {
                back(&original)?;
                prop_assert!(written(&original).is_ascii());
            }
        }
        let [success, failure, delay] = flags;
        back(&Notify { success, failure, delay })?;
        back(if success { &Ret::Full } else { &Ret::Headers })?;
        for mode in [ByMode::Return, ByMode::Notify] {
            if let Ok(by) = DeliverBy::new(seconds, mode, failure) {
                back(&by)?;
            }
        }
        back(&Priority::new(priority).unwrap())?;
        back(&HoldFor::new(hold).unwrap())?;
        let mut date = String::new();
        crate::types::date_time::write(unix, &mut date).unwrap();
        back(&read::<HoldUntil>(&date).unwrap())?;
        let since = alloc::format!("{date}{}", if delay { ";C" } else { ";R" });
        back(&read::<ValidSince>(&since).unwrap())?;
        back(&Solicit::new(&classes).unwrap())?;
        back(&Size(size))?;
        for body in [BodyType::SevenBit, BodyType::EightBitMime, BodyType::BinaryMime] {
            back(&body)?;
        }
        back(&SmtpUtf8)?;
        back(&RequireTls)?;
        back(&Prdr)?;
        back(&Conperm)?;
        back(&Conneg)?;
        back(&AuthParameter(None))?;
        back(&AuthParameter(Some("\"e=mc2 +\"@client.example".parse().unwrap())))?;
        let mtrk = if delay { alloc::format!("{certifier}:{hold}") } else { certifier.clone() };
        back(&read::<Mtrk>(&mtrk).unwrap())?;
        back(&read::<TransactionId>(&alloc::format!("<{}>", &certifier)).unwrap())?;
        let limits = TransactionLimits { messages: success.then_some(hold), recipients: Some(hold), recipient_domains: None };
        prop_assert_eq!(TransactionLimits::parse(&limits.to_string()), limits);
    }

    #[test]
    fn any_value_is_checked_without_panic(keyword in 0usize..40, value in "\\PC{0,40}") {
        let registry = Registry::default();
        let rules: Vec<_> = registry.iter().flat_map(|e| e.mail.iter().chain(e.rcpt)).collect();
        let rule = rules[keyword % rules.len()];
        with_context(|context| {
            let _ = (rule.check)(context, Some(&value), &Parameters::default());
            let _ = (rule.check)(context, None, &Parameters::default());
        });
        let _ = (rule.lacking)(Some(&value));
    }
}
