use super::*;
use crate::{Loss, udp_packet};

const MS: Duration = Duration::from_millis(1);

/// The fates of `n` packets of 1,000 octets, one each millisecond.
fn fates(shape: Shape, seed: u64, n: u32) -> Vec<Fate> {
    let mut link = Link::new(shape, seed);
    (0..n).map(|i| link.offer(MS * i, &udp_packet(1_000, 1, 2))).collect()
}

fn is_lost(fate: &Fate) -> bool {
    *fate == Fate::Dropped(DropReason::Lost)
}

#[test]
fn a_seed_decides_everything() {
    let shape = Shape { jitter: MS * 7, loss: Loss::Random(0.3), ..Shape::default() };
    assert_eq!(fates(shape, 1, 1_000), fates(shape, 1, 1_000));
    assert_ne!(fates(shape, 1, 1_000), fates(shape, 2, 1_000));
}

#[test]
fn luck_can_begin_again() {
    let shape = Shape { loss: Loss::Bursts { rate: 0.3, mean: 3.0 }, ..Shape::default() };
    let mut link = Link::new(shape, 4);
    let next = |link: &mut Link| (0..100).map(|_| link.offer(MS, &udp_packet(50, 1, 2))).collect::<Vec<_>>();
    let first = next(&mut link);
    assert_ne!(next(&mut link), first);
    link.reseed(4);
    assert_eq!(next(&mut link), first);
}

#[test]
fn the_luck_of_a_packet_does_not_depend_on_what_else_happens() {
    let lossy = Shape { loss: Loss::Random(0.3), ..Shape::default() };
    let slow = Shape { rate: Some(1_000_000), queue: 1_000_000_000, delay: MS, jitter: MS, ..lossy };
    let lost = |shape| fates(shape, 5, 500).iter().map(is_lost).collect::<Vec<_>>();
    assert_eq!(lost(lossy), lost(slow));
}

#[test]
fn delay_and_jitter_stay_in_their_bounds() {
    let shape = Shape { delay: MS * 25, jitter: MS * 10, ..Shape::default() };
    let late: Vec<_> = fates(shape, 3, 1_000)
        .into_iter()
        .zip(0..)
        .map(|(fate, i)| match fate {
            Fate::Arrives(at) => at - MS * i,
            Fate::Dropped(why) => panic!("{why:?}"),
        })
        .collect();
    let (least, most) = (late.iter().min().unwrap(), late.iter().max().unwrap());
    assert!(*least >= MS * 25 && *most < MS * 35, "{least:?} {most:?}");
    // All of the range is used.
    assert!(*least < MS * 26 && *most > MS * 34, "{least:?} {most:?}");
}

#[test]
fn loss_comes_as_often_as_it_should_and_in_runs_where_it_should() {
    /// Share of lost packets, and mean length of a run of them.
    fn of(loss: Loss) -> (f64, f64) {
        let fates = fates(Shape { loss, ..Shape::default() }, 9, 200_000);
        let lost = fates.iter().filter(|fate| is_lost(fate)).count();
        let runs = fates.windows(2).filter(|pair| !is_lost(&pair[0]) && is_lost(&pair[1])).count();
        (lost as f64 / fates.len() as f64, lost as f64 / runs.max(1) as f64)
    }
    let near = |a: f64, b: f64| (a - b).abs() < b * 0.1;
    let (share, run) = of(Loss::Random(0.02));
    assert!(near(share, 0.02) && near(run, 1.02), "{share} {run}");
    let (share, run) = of(Loss::Bursts { rate: 0.02, mean: 5.0 });
    assert!(near(share, 0.02) && near(run, 5.0), "{share} {run}");
    assert_eq!(of(Loss::None).0, 0.0);
    assert_eq!(of(Loss::Random(7.0)).0, 1.0);
    assert_eq!(of(Loss::Bursts { rate: 1.0, mean: 0.0 }).0, 1.0);
}

#[test]
fn a_rate_is_kept_and_its_queue_drops_at_the_tail() {
    // 1,000 octets in 1 ms; one is being sent and three wait.
    let shape = Shape { rate: Some(8_000_000), queue: 4_000, ..Shape::default() };
    let mut link = Link::new(shape, 1);
    let packet = udp_packet(1_000, 1, 2);
    let fates: Vec<_> = (0..6).map(|_| link.offer(Duration::ZERO, &packet)).collect();
    let full = Fate::Dropped(DropReason::QueueFull);
    let expected = [1, 2, 3, 4].map(|n| Fate::Arrives(MS * n)).into_iter().chain([full, full]);
    assert_eq!(fates, expected.collect::<Vec<_>>());
    // Two have left: there is room for two.
    let fates: Vec<_> = (0..3).map(|_| link.offer(MS * 2, &packet)).collect();
    assert_eq!(fates, [Fate::Arrives(MS * 5), Fate::Arrives(MS * 6), full]);
    assert_eq!(link.counters().queue_full, 3);
    // A queue that is shorter than a packet still lets one through.
    let mut narrow = Link::new(Shape { queue: 10, ..shape }, 1);
    assert_eq!(narrow.offer(Duration::ZERO, &packet), Fate::Arrives(MS));
    assert_eq!(narrow.offer(Duration::ZERO, &packet), full);
}

#[test]
fn large_packets_and_udp_can_be_blocked() {
    let mut link = Link::new(Shape { largest: Some(1_000), ..Shape::default() }, 1);
    assert_eq!(link.offer(MS, &udp_packet(1_000, 1, 2)), Fate::Arrives(MS));
    assert_eq!(link.offer(MS, &udp_packet(1_001, 1, 2)), Fate::Dropped(DropReason::TooLarge));
    link.set_shape(Shape { block_udp: true, ..Shape::default() });
    let mut packet = udp_packet(100, 1, 2);
    assert_eq!(link.offer(MS, &packet), Fate::Dropped(DropReason::UdpBlocked));
    packet[9] = 6;
    assert_eq!(link.offer(MS, &packet), Fate::Arrives(MS));
}

#[test]
fn everything_is_counted() {
    let mut link = Link::new(Shape { loss: Loss::Random(0.5), largest: Some(500), ..Shape::default() }, 1);
    for i in 0..100 {
        link.offer(MS * i, &udp_packet(if i % 10 == 0 { 600 } else { 100 }, 1, 2));
    }
    let Counters { packets, octets, arrived, lost, queue_full, refused } = link.counters();
    assert_eq!((packets, octets, refused, queue_full), (100, 90 * 100 + 10 * 600, 10, 0));
    assert_eq!(arrived + lost, 90);
    assert!(lost > 20 && arrived > 20, "{lost} {arrived}");
}
