//! What is to be run: a title, and parts that are each a matrix.

use serde::{Deserialize, Serialize};

use crate::cell::{Cell, Path};
use crate::choice::{
    Congestion, Dialogue, Ground, KeyExchange, Priority, Resumption, Spread, Transfer, Transport, Tuning,
};

/// The most cells that an experiment may have.
const CELLS_MAX: usize = 2_000;
/// The most runs.
const RUNS_MAX: usize = 500_000;
/// The most mails of one run. A server lets a client have 32 streams.
const MAILS_MAX: usize = 32;
/// The most octets of one run.
const OCTETS_MAX: usize = 64 << 20;
/// The longest round trip time, in milliseconds.
const RTT_MAX: f64 = 10_000.0;

/// The latest that a NAT forgets, in milliseconds; no run takes longer.
const REBIND_MAX: f64 = 60_000.0;

/// An experiment, as its file has it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Experiment {
    /// Its title.
    pub title: String,
    /// What it is to find out; Markdown. Default: nothing.
    #[serde(default)]
    pub about: String,
    /// Where it runs. Default: the simulation.
    #[serde(default = "simulation")]
    pub ground: Ground,
    /// Chance. Default: 1.
    #[serde(default = "one")]
    pub seed: u64,
    /// How often each cell is run, all cells in turn. Default: 1.
    #[serde(default = "once")]
    pub rounds: u32,
    /// The matrices.
    pub part: Vec<Part>,
}

/// A matrix: all that its lists can be combined to, except what there cannot be.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Part {
    /// Its title.
    pub title: String,
    /// What it is to find out; Markdown. Default: nothing.
    pub about: String,
    /// How often its cells are run, if that is not as the experiment says: without loss once is enough.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rounds: Option<u32>,
    /// Default: `starttls`, `tls`, `quic`.
    pub transport: Vec<Transport>,
    /// Default: `none`.
    pub resumption: Vec<Resumption>,
    /// Default: `pipelined`, `flight`.
    pub dialogue: Vec<Dialogue>,
    /// Default: `bdat`.
    pub transfer: Vec<Transfer>,
    /// Mails at once. Default: 1.
    pub mails: Vec<usize>,
    /// Default: `session`.
    pub spread: Vec<Spread>,
    /// Octets of a mail. Default: 20,000.
    pub size: Vec<usize>,
    /// Default: `default`.
    pub tuning: Vec<Tuning>,
    /// Default: `cubic`.
    pub congestion: Vec<Congestion>,
    /// Default: `ordered`.
    pub priority: Vec<Priority>,
    /// Default: `x25519mlkem768`.
    pub key_exchange: Vec<KeyExchange>,
    /// The round trip time in milliseconds. Default: 50.
    pub rtt: Vec<f64>,
    /// In milliseconds, each way. Default: 0.
    pub jitter: Vec<f64>,
    /// In percent of the packets, each way. Default: 0.
    pub loss: Vec<f64>,
    /// Packets that are lost in a row, on average. Default: 1.
    pub burst: Vec<f64>,
    /// Mbit/s each way, 0 for no limit. Default: 0.
    pub rate: Vec<f64>,
    /// Octets that may wait where there is a rate. Default: 625,000, which is 50 ms at 100 Mbit/s.
    pub queue: usize,
    /// The largest packet that gets through, in octets, 576 to 1500. Default: 1500.
    pub mtu: u16,
    /// Whether UDP vanishes. Default: false.
    pub block_udp: bool,
    /// When the client's NAT forgets its ports, in milliseconds from the beginning; 0: never. Default: 0.
    pub rebind: Vec<f64>,
}

const fn simulation() -> Ground {
    Ground::Simulation
}

const fn one() -> u64 {
    1
}

const fn once() -> u32 {
    1
}

impl Default for Part {
    fn default() -> Self {
        Self {
            title: String::new(),
            about: String::new(),
            rounds: None,
            transport: vec![Transport::StartTls, Transport::Tls, Transport::Quic],
            resumption: vec![Resumption::None],
            dialogue: vec![Dialogue::Pipelined, Dialogue::Flight],
            transfer: vec![Transfer::Bdat],
            mails: vec![1],
            spread: vec![Spread::Session],
            size: vec![20_000],
            tuning: vec![Tuning::Default],
            congestion: vec![Congestion::Cubic],
            priority: vec![Priority::Ordered],
            key_exchange: vec![KeyExchange::Hybrid],
            rtt: vec![50.0],
            jitter: vec![0.0],
            loss: vec![0.0],
            burst: vec![1.0],
            rate: vec![0.0],
            queue: 625_000,
            mtu: 1500,
            block_udp: false,
            rebind: vec![0.0],
        }
    }
}

/// A cell, and the part that it belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Place {
    /// The part's place in the experiment.
    pub part: usize,
    /// The cell.
    pub cell: Cell,
}

/// Combinations that are not run.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LeftOut {
    /// The part's place in the experiment.
    pub part: usize,
    /// Why.
    pub why: String,
    /// How many.
    pub cells: usize,
}

/// Why an experiment cannot be run.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum ExperimentError {
    /// The file is no TOML, or has a key or value that is not known; with line and column.
    #[error("{0}")]
    Syntax(String),
    /// A value is out of its range.
    #[error("part {part}, {what}")]
    Value {
        /// The part, from 1.
        part: usize,
        /// The value, and what it may be.
        what: String,
    },
    /// There is nothing to run.
    #[error("nothing to run: {0}")]
    Empty(String),
    /// There is too much to run.
    #[error("{cells} cells and {runs} runs: at most {CELLS_MAX} cells and {RUNS_MAX} runs")]
    TooMuch {
        /// How many cells.
        cells: usize,
        /// How many runs.
        runs: usize,
    },
}

impl Experiment {
    /// Reads the TOML of an experiment.
    ///
    /// # Errors
    /// If it cannot be read. Whether it can be run, [`Experiment::cells`] tells.
    pub fn parse(text: &str) -> Result<Self, ExperimentError> {
        toml::from_str(text).map_err(|error| ExperimentError::Syntax(error.to_string().trim().to_owned()))
    }

    /// All cells, part by part, and what is left out.
    ///
    /// # Errors
    /// If a value is out of its range, or there are no cells, or too many.
    pub fn cells(&self) -> Result<(Vec<Place>, Vec<LeftOut>), ExperimentError> {
        let (mut places, mut left_out) = (Vec::new(), Vec::<LeftOut>::new());
        for (number, part) in self.part.iter().enumerate() {
            part.check(self.ground).map_err(|what| ExperimentError::Value { part: number + 1, what })?;
            let first = places.len();
            for cell in part.all()? {
                match cell.check(self.ground) {
                    Ok(()) => {
                        let place = Place { part: number, cell };
                        if !places.get(first..).is_some_and(|own: &[Place]| own.contains(&place)) {
                            places.push(place);
                        }
                    }
                    Err(why) => match left_out.iter_mut().find(|known| known.part == number && known.why == why) {
                        Some(known) => known.cells += 1,
                        None => left_out.push(LeftOut { part: number, why: why.to_owned(), cells: 1 }),
                    },
                }
            }
        }
        let runs = self.runs(&places);
        if runs == 0 {
            let why = left_out.first().map_or("it has no parts, or no rounds", |left| left.why.as_str());
            return Err(ExperimentError::Empty(why.to_owned()));
        }
        if places.len() > CELLS_MAX || runs > RUNS_MAX {
            return Err(ExperimentError::TooMuch { cells: places.len(), runs });
        }
        Ok((places, left_out))
    }

    /// How many rounds a part has.
    #[must_use]
    pub fn rounds_of(&self, part: usize) -> u32 {
        self.part.get(part).and_then(|part| part.rounds).unwrap_or(self.rounds)
    }

    /// How many runs these cells are.
    #[must_use]
    pub fn runs(&self, places: &[Place]) -> usize {
        places.iter().map(|place| self.rounds_of(place.part) as usize).fold(0, usize::saturating_add)
    }

    /// The seed of a round: what all cells of it have in common.
    #[must_use]
    pub const fn seed_of(&self, round: u32) -> u64 {
        self.seed.wrapping_mul(1_000_000).wrapping_add(round as u64)
    }
}

impl Part {
    /// Whether all values are in range.
    fn check(&self, ground: Ground) -> Result<(), String> {
        let ranges: [(&str, &[f64], f64, f64); 6] = [
            ("rtt", &self.rtt, 0.0, RTT_MAX),
            ("jitter", &self.jitter, 0.0, RTT_MAX),
            ("loss", &self.loss, 0.0, 100.0),
            ("burst", &self.burst, 1.0, 1_000.0),
            ("rate", &self.rate, 0.0, 100_000.0),
            ("rebind", &self.rebind, 0.0, REBIND_MAX),
        ];
        for (name, values, low, high) in ranges {
            if let Some(value) = values.iter().find(|value| !(low..=high).contains(*value)) {
                return Err(format!("{name} {value}: from {low} to {high}"));
            }
        }
        if ground == Ground::Simulation
            && let Some(rtt) = self.rtt.iter().find(|rtt| **rtt % 2.0 != 0.0 || **rtt == 0.0)
        {
            return Err(format!(
                "rtt {rtt}: the simulation's clock ticks in milliseconds, so twice a whole number of them"
            ));
        }
        if let Some(mails) = self.mails.iter().find(|mails| !(1..=MAILS_MAX).contains(*mails)) {
            return Err(format!("mails {mails}: from 1 to {MAILS_MAX}"));
        }
        let most = self.mails.iter().max().copied().unwrap_or(0);
        if let Some(size) = self.size.iter().find(|size| **size < 100 || size.saturating_mul(most) > OCTETS_MAX) {
            return Err(format!("size {size}: from 100 octets, and all mails of a run up to {OCTETS_MAX}"));
        }
        if !(576..=1500).contains(&self.mtu) {
            return Err(format!("mtu {}: from 576 to 1500", self.mtu));
        }
        Ok(())
    }

    /// How many combinations there are.
    fn combinations(&self) -> usize {
        let lengths = [
            self.transport.len(),
            self.resumption.len(),
            self.dialogue.len(),
            self.transfer.len(),
            self.mails.len(),
            self.spread.len(),
            self.size.len(),
            self.tuning.len(),
            self.congestion.len(),
            self.priority.len(),
            self.key_exchange.len(),
            self.paths_len(),
        ];
        lengths.into_iter().fold(1, usize::saturating_mul)
    }

    fn paths_len(&self) -> usize {
        let lists = [&self.rtt, &self.jitter, &self.loss, &self.burst, &self.rate, &self.rebind];
        let lengths = lists.map(Vec::len);
        lengths.into_iter().fold(1, usize::saturating_mul)
    }

    fn paths(&self) -> Vec<Path> {
        let Self { queue, mtu, block_udp, .. } = *self;
        let mut paths = Vec::new();
        for &rtt in &self.rtt {
            for &jitter in &self.jitter {
                for &rate in &self.rate {
                    for &burst in &self.burst {
                        for &loss in &self.loss {
                            // Without loss there are no runs of it.
                            let burst = if loss > 0.0 { burst } else { 1.0 };
                            for &rebind in &self.rebind {
                                let path = Path { rtt, jitter, loss, burst, rate, queue, mtu, block_udp, rebind };
                                if !paths.contains(&path) {
                                    paths.push(path);
                                }
                            }
                        }
                    }
                }
            }
        }
        paths
    }

    /// Every combination, the way slowest to change within a path.
    fn all(&self) -> Result<Vec<Cell>, ExperimentError> {
        if self.combinations() > CELLS_MAX * 20 {
            return Err(ExperimentError::TooMuch { cells: self.combinations(), runs: self.combinations() });
        }
        let mut cells = Vec::new();
        /// Nested loops over lists.
        macro_rules! each {
            ($cell:expr => ) => { cells.push(Cell::normalised($cell)) };
            ($cell:expr => $field:ident $($rest:ident)*) => {
                for &$field in &self.$field {
                    each!(Cell { $field, ..$cell } => $($rest)*);
                }
            };
        }
        for path in self.paths() {
            let first = Cell {
                transport: Transport::Tcp,
                resumption: Resumption::None,
                dialogue: Dialogue::Lockstep,
                transfer: Transfer::Data,
                mails: 1,
                spread: Spread::Session,
                size: 0,
                tuning: Tuning::Default,
                congestion: Congestion::Cubic,
                priority: Priority::Ordered,
                key_exchange: KeyExchange::Hybrid,
                path,
            };
            each!(first => size mails transport dialogue transfer spread key_exchange resumption tuning congestion priority);
        }
        Ok(cells)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn experiment(part: &str) -> Experiment {
        Experiment::parse(&format!("title = \"t\"\n[[part]]\n{part}")).unwrap()
    }

    #[test]
    fn a_matrix_is_all_combinations_but_twins_and_what_cannot_be() {
        let experiment = experiment(
            "transport = [\"tls\", \"quic\"]\ndialogue = [\"pipelined\", \"flight\"]\ntuning = [\"default\", \"tuned\"]\n\
             mails = [1, 20]\nspread = [\"session\", \"streams\"]",
        );
        let (places, left_out) = experiment.cells().unwrap();
        // TLS: one dialogue, tuning is not about it, streams are left out: 1 for each number of mails. QUIC: 2 dialogues,
        // 2 tunings, with 20 mails 2 spreads.
        assert_eq!(places.len(), 2 + 2 * 2 * (1 + 2));
        assert!(left_out.iter().any(|left| left.why.contains("RFC 2920")), "{left_out:?}");
        assert!(left_out.iter().any(|left| left.why.contains("no streams")), "{left_out:?}");
        for (n, place) in places.iter().enumerate() {
            assert!(!places[..n].contains(place), "{place:?}");
        }
    }

    #[test]
    fn tcp_with_loss_is_for_the_link() {
        let mut experiment = experiment("transport = [\"tls\"]\nloss = [0, 2]");
        let (places, left_out) = experiment.cells().unwrap();
        assert_eq!((places.len(), left_out.len()), (1, 1 + 1), "{left_out:?}");
        experiment.ground = Ground::Link;
        assert_eq!(experiment.cells().unwrap().0.len(), 2);
    }

    #[test]
    fn a_nat_that_forgets_is_the_links_and_about_udp() {
        let mut experiment =
            experiment("transport = [\"tls\", \"quic\"]\ndialogue = [\"pipelined\"]\nrebind = [0, 200]");
        assert_eq!(experiment.cells().unwrap().0.len(), 2);
        experiment.ground = Ground::Link;
        let (places, left_out) = experiment.cells().unwrap();
        assert_eq!((places.len(), left_out.len()), (3, 1), "{left_out:?}");
        let forgets = places.iter().find(|place| place.cell.path.rebind > 0.0).unwrap();
        assert_eq!(forgets.cell.path.to_string(), "50 ms, 0 % lost, NAT forgets after 200 ms");
    }

    #[test]
    fn a_race_is_what_both_ways_can_do() {
        let all = "transport = [\"starttls\", \"race\"]\nmails = [2]\nspread = [\"session\", \"streams\"]\n\
                   dialogue = [\"flight\"]\nresumption = [\"none\", \"memory\", \"early\"]\nrebind = [0, 9]";
        let mut experiment = experiment(all);
        experiment.ground = Ground::Link;
        let (places, left_out) = experiment.cells().unwrap();
        let ways: Vec<String> = places.iter().map(|place| place.cell.way()).collect();
        assert_eq!(ways, ["race, one flight, one connection", "race, one flight, one connection, remembered"]);
        for why in ["TCP may win a race, and has no streams", "full handshakes", "the ports of UDP only: take `quic`"] {
            assert!(left_out.iter().any(|left| left.why.contains(why)), "{why}: {left_out:?}");
        }
        // The simulated TCP is one side of it.
        let mut lossy = self::experiment("transport = [\"race\"]\nloss = [1]");
        let error = lossy.cells().unwrap_err().to_string();
        assert!(error.contains("that of a race too, knows no loss") && error.contains("emulated link"), "{error}");
        lossy.ground = Ground::Link;
        assert_eq!(lossy.cells().unwrap().0.len(), 2);
    }

    #[test]
    fn what_only_a_race_remembers_is_no_other_cell_elsewhere() {
        let experiment = experiment("dialogue = [\"pipelined\"]\nresumption = [\"none\", \"memory\"]");
        assert_eq!(experiment.cells().unwrap().0.len(), 3);
    }

    #[test]
    fn what_is_out_of_range_is_named() {
        for (part, what) in [
            ("rtt = [5]", "rtt 5: "),
            ("rtt = [-2]", "rtt -2: "),
            ("loss = [101]", "loss 101: "),
            ("mails = [0]", "mails 0: "),
            ("mails = [33]", "mails 33: "),
            ("size = [99]", "size 99: "),
            ("size = [99000000]", "size 99000000: "),
            ("mtu = 100", "mtu 100: "),
            ("burst = [0.5]", "burst 0.5: "),
            ("rebind = [60001]", "rebind 60001: "),
            ("loss = [nan]", "loss NaN: "),
        ] {
            let error = experiment(part).cells().unwrap_err().to_string();
            assert!(error.starts_with("part 1, ") && error.contains(what), "{part}: {error}");
        }
        assert!(matches!(experiment("transport = []").cells(), Err(ExperimentError::Empty(_))));
        let rounds = Experiment { rounds: 1_000_000, ..experiment("") };
        assert!(matches!(rounds.cells(), Err(ExperimentError::TooMuch { .. })));
    }

    #[test]
    fn what_is_not_known_is_told_with_its_line() {
        for (text, line, what) in [
            ("title = \"t\"\nrouns = 1\npart = []", "line 2", "rouns"),
            ("title = \"t\"\n[[part]]\n\ntransport = [\"sctp\"]", "line 4", "sctp"),
        ] {
            let error = Experiment::parse(text).unwrap_err().to_string();
            assert!(error.contains(line) && error.contains(what), "{error}");
        }
    }
}
