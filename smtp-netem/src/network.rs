//! Two namespaces and the link between them.

use std::fmt;
use std::fs;
use std::io;
use std::net::Ipv4Addr;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use tun_rs::{DeviceBuilder, Layer, SyncDevice};

use crate::link::{Counters, Link};
use crate::namespace::{Namespace, sweep};
use crate::nat::Nat;
use crate::shape::Shape;
use crate::trace::{Direction, Event};
use crate::wire::{Shared, Trace, Wire};

/// The device's name in each namespace, where it is alone with `lo`.
const DEVICE: &str = "link0";

/// What a network is like in the beginning.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Settings {
    /// From side A to side B. Default: nothing happens to packets.
    pub a_to_b: Shape,
    /// The other way.
    pub b_to_a: Shape,
    /// Chance. Default: 0.
    pub seed: u64,
    /// What the devices say is the largest packet, in octets. Default: 1,500.
    pub mtu: u16,
    /// How many packets [`Network::take_trace`] remembers at most. Default: none.
    pub trace: usize,
}

impl Default for Settings {
    fn default() -> Self {
        Self::both(Shape::default())
    }
}

impl Settings {
    /// The same both ways.
    #[must_use]
    pub const fn both(shape: Shape) -> Self {
        Self { a_to_b: shape, b_to_a: shape, seed: 0, mtu: 1500, trace: 0 }
    }
}

/// One end of the link.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Side {
    /// 198.18.0.1, behind the NAT: the client's, usually.
    A,
    /// 198.18.0.2.
    B,
}

impl Side {
    /// Its address, of the range that is set aside for measurements (RFC 2544).
    #[must_use]
    pub const fn address(self) -> Ipv4Addr {
        match self {
            Self::A => Ipv4Addr::new(198, 18, 0, 1),
            Self::B => Ipv4Addr::new(198, 18, 0, 2),
        }
    }
}

/// Two namespaces and the link between them. All of it goes when this is dropped.
pub struct Network {
    // In this order: the threads, then what they carry between.
    a_to_b: Wire,
    b_to_a: Wire,
    shared: Arc<Shared>,
    a: Namespace,
    b: Namespace,
}

/// Why there can be no [`Network`] here, if so.
///
/// # Errors
/// With what is missing.
pub fn unavailable() -> Result<(), String> {
    if !rustix::process::geteuid().is_root() {
        return Err("network namespaces need root".into());
    }
    if let Err(error) = fs::metadata("/dev/net/tun") {
        return Err(format!("/dev/net/tun: {error}; is the tun module there?"));
    }
    match crate::namespace::ip(&["netns", "list"]) {
        Ok(()) => Ok(()),
        Err(error) => Err(format!("{error}; ip(8) comes with iproute2")),
    }
}

impl Network {
    /// Makes the namespaces and the link.
    ///
    /// # Errors
    /// What [`unavailable`] would have said, and what the system says.
    pub fn new(settings: Settings) -> io::Result<Self> {
        unavailable().map_err(io::Error::other)?;
        sweep();
        let (a, b) = (Namespace::new('a')?, Namespace::new('b')?);
        let (device_a, device_b) = (device(&a, Side::A, settings.mtu)?, device(&b, Side::B, settings.mtu)?);
        let shared = Arc::new(Shared {
            start: Instant::now(),
            nat: Mutex::new(Nat::default()),
            trace: Mutex::new(Trace { limit: settings.trace, events: Vec::new() }),
        });
        let link = Link::new(settings.a_to_b, settings.seed);
        let a_to_b = Wire::start(Direction::AToB, link, &shared, &device_a, &device_b)?;
        // Another chance than the other way's.
        let link = Link::new(settings.b_to_a, !settings.seed);
        let b_to_a = Wire::start(Direction::BToA, link, &shared, &device_b, &device_a)?;
        Ok(Self { a_to_b, b_to_a, shared, a, b })
    }

    /// A side's namespace, to run things in.
    #[must_use]
    pub const fn side(&self, side: Side) -> &Namespace {
        match side {
            Side::A => &self.a,
            Side::B => &self.b,
        }
    }

    /// Another shape from now on; what is under way stays so.
    pub fn set_shape(&self, direction: Direction, shape: Shape) {
        self.wire(direction).set_shape(shape);
    }

    /// Chance begins again, as in a new network with this seed: what is compared can be given the same luck.
    pub fn reseed(&self, seed: u64) {
        self.a_to_b.reseed(seed);
        self.b_to_a.reseed(!seed);
    }

    /// What has gone through, each way.
    #[must_use]
    pub fn counters(&self, direction: Direction) -> Counters {
        self.wire(direction).counters()
    }

    /// The NAT forgets all UDP ports, and gives others from now on.
    pub fn rebind_nat(&self, turn: u16) {
        self.shared.nat.lock().unwrap_or_else(PoisonError::into_inner).rebind(turn);
    }

    /// The time of the network's clock, as events have it.
    #[must_use]
    pub fn elapsed(&self) -> Duration {
        self.shared.start.elapsed()
    }

    /// The packets since the last call, as far as [`Settings::trace`] allows.
    #[must_use]
    pub fn take_trace(&self) -> Vec<Event> {
        std::mem::take(&mut self.shared.trace.lock().unwrap_or_else(PoisonError::into_inner).events)
    }

    const fn wire(&self, direction: Direction) -> &Wire {
        match direction {
            Direction::AToB => &self.a_to_b,
            Direction::BToA => &self.b_to_a,
        }
    }
}

impl fmt::Debug for Network {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Network").field("a", &self.a).field("b", &self.b).finish_non_exhaustive()
    }
}

/// The end of the link in a namespace, with its address, up.
fn device(namespace: &Namespace, side: Side, mtu: u16) -> io::Result<Arc<SyncDevice>> {
    // A device belongs to the namespace of the thread that made it.
    let make = move || DeviceBuilder::new().name(DEVICE).layer(Layer::L3).mtu(mtu).enable(false).build_sync();
    let made = namespace.spawn(make).join();
    let device = made.map_err(|_| io::Error::other("the thread that makes the device panicked"))???;
    // No IPv6, whose neighbours and routers the kernel would look for over the link.
    let ipv6 = namespace.command("sh").args(["-c", "echo 1 > /proc/sys/net/ipv6/conf/all/disable_ipv6"]).output();
    if Path::new("/proc/sys/net/ipv6").exists() {
        ipv6?;
    }
    namespace.ip(&["link", "set", "lo", "up"])?;
    namespace.ip(&["addr", "add", &format!("{}/24", side.address()), "dev", DEVICE])?;
    namespace.ip(&["link", "set", DEVICE, "up"])?;
    Ok(Arc::new(device))
}
