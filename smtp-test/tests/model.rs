//! Any commands in any order, held against a small model of the RFCs: the same codes, and exactly the same deliveries.
//! So no 354 and no 250 behind content without a fresh MAIL and RCPT, and every 250 behind content is a delivery.

#![allow(clippy::unwrap_used, reason = "helpers of tests; the exception for tests covers only their functions")]

mod common;

use std::time::Duration;

use common::model::{Act, Content, Model};
use common::scenarios::reference_stack;
use common::{Pieces, codes, talk};
use proptest::prelude::*;
use smtp_test::memory::{Knobs, Pace};

fn content() -> impl Strategy<Value = Content> {
    prop_oneof![
        4 => Just(Content::Text),
        1 => Just(Content::Nothing),
        2 => Just(Content::Dots),
        2 => Just(Content::Commands),
        1 => Just(Content::BareLf),
        1 => Just(Content::BareCr),
        1 => Just(Content::Smuggled),
    ]
}

fn act() -> impl Strategy<Value = Act> {
    let mail = (
        prop::sample::select(vec!["<>", "<user@client.example>", "<\"a b\"@client.example>"]),
        prop::sample::select(vec!["", "", "", "", " SIZE=100", " BODY=8BITMIME", " SIZE=1000001", " COLOUR=BLUE"]),
    );
    let rcpt = prop::sample::select(vec![
        "<alice@here.example>",
        "<bob@here.example>",
        "<@relay.example:bob@here.example>",
        "<Postmaster>",
        "<nobody@here.example>",
        "<x@elsewhere.example>",
    ]);
    prop_oneof![
        4 => Just(Act::Ehlo),
        1 => Just(Act::Helo),
        12 => mail.prop_map(|(from, parameters)| Act::Mail { from, parameters }),
        16 => rcpt.prop_map(Act::Rcpt),
        8 => content().prop_map(Act::Data),
        12 => (content(), any::<bool>()).prop_map(|(content, last)| Act::Bdat { content, last }),
        5 => Just(Act::Rset),
        3 => prop::sample::select(vec![Act::Noop, Act::Vrfy, Act::Expn, Act::Help]),
        3 => prop::sample::select(vec![
            Act::Lhlo, Act::EhloWithoutName, Act::MailWithoutBrackets, Act::RcptWithoutBrackets, Act::DataWithArgument,
            Act::RsetWithArgument, Act::Unknown, Act::Empty, Act::TooLong, Act::BareLf, Act::StartTls,
        ]),
        2 => any::<bool>().prop_map(|right| Act::AuthPlain { right }),
        2 => any::<bool>().prop_map(|right| Act::AuthLogin { right }),
        1 => Just(Act::AuthCancelled),
        1 => Just(Act::AuthNotBase64),
        1 => Just(Act::Quit),
    ]
}

/// At first a greeting, as a rule, so that more than refusals is seen.
fn acts() -> impl Strategy<Value = Vec<Act>> {
    (prop::bool::weighted(0.9), prop::collection::vec(act(), 0..60)).prop_map(|(greet, mut acts)| {
        if greet {
            acts.insert(0, Act::Ehlo);
        }
        acts
    })
}

fn pace() -> impl Strategy<Value = Pace> {
    prop_oneof![
        3 => Just(Pace::default()),
        1 => Just(Pace::OCTET_BY_OCTET),
        1 => Just(Pace::STORMY),
        1 => Just(Pace::LAZY),
        1 => (1usize..40, 1usize..40, 0u32..4).prop_map(|(read, write, pending)| Pace { read, write, pending, lazy: false }),
    ]
}

fn hold_against_model(acts: &[Act], pace: Pace, piece: usize, pause: Duration) -> Result<(), TestCaseError> {
    let mut model = Model::new();
    for act in acts {
        model.act(act);
    }
    let stack = reference_stack().slow(pause);
    let (said, delivered) = talk(&stack, &Knobs::default().paced(pace), &model.input, Pieces::Of(piece));
    let got: Vec<u16> = codes(&said).iter().map(|code| code.parse().unwrap()).collect();
    let same = got.len() == model.codes.len() && got.iter().zip(&model.codes).all(|(got, right)| right.contains(got));
    prop_assert!(same, "heard {:?}\nright {:?}\nto {}", got, model.codes, String::from_utf8_lossy(&model.input));
    prop_assert_eq!(delivered, model.delivered, "to {}", String::from_utf8_lossy(&model.input));
    Ok(())
}

proptest! {
    #![proptest_config(common::proptest_config(3_000))]

    #[test]
    fn any_commands_in_any_order(acts in acts(), pace in pace(), piece in prop_oneof![Just(1_000_000usize), 1usize..60]) {
        hold_against_model(&acts, pace, piece, Duration::ZERO)?;
    }

    #[test]
    fn any_commands_in_any_order_with_services_that_take_their_time(
        acts in acts(),
        pace in pace(),
        piece in prop_oneof![Just(1_000_000usize), 1usize..60],
    ) {
        hold_against_model(&acts, pace, piece, Duration::from_millis(2))?;
    }
}

/// The model itself: a conversation that can be followed by hand.
#[test]
fn the_model_knows_a_transaction_when_it_sees_one() {
    let mut model = Model::new();
    for act in [
        Act::Mail { from: "<>", parameters: "" },
        Act::Ehlo,
        Act::Data(Content::Text),
        Act::Mail { from: "<>", parameters: "" },
        Act::Rcpt("<nobody@here.example>"),
        Act::Data(Content::Text),
        Act::Rcpt("<alice@here.example>"),
        Act::Data(Content::Dots),
        Act::Data(Content::Text),
        Act::Quit,
        Act::Noop,
    ] {
        model.act(&act);
    }
    let codes: Vec<u16> = model.codes.iter().map(|codes| codes[0]).collect();
    assert_eq!(codes, [220, 503, 250, 503, 250, 550, 554, 250, 354, 250, 503, 221]);
    assert_eq!(model.delivered.len(), 1);
    assert!(model.input.ends_with(b"DATA\r\n..\r\n...\r\n..x\r\n.\r\nDATA\r\nQUIT\r\n"));
}
