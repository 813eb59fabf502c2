//! A clock that a test moves, and randomness that a test seeds.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use spanlake_schema::Ambient;

use crate::SplitMix64;

/// 2026-01-15T12:00:00Z: a plain noon in the middle of a month, where a clock starts that nobody set.
pub const NOON_UNIX_NANO: u64 = 1_768_478_400_000_000_000;

/// Time stands still until the test moves it; randomness follows from the seed.
#[derive(Debug)]
pub struct ManualAmbient {
    now_unix_nano: AtomicU64,
    random: Mutex<SplitMix64>,
}

impl ManualAmbient {
    /// A clock that stands at [`NOON_UNIX_NANO`].
    pub fn new(seed: u64) -> Self {
        Self::at(seed, NOON_UNIX_NANO)
    }

    /// A clock that stands at this time.
    pub fn at(seed: u64, unix_nano: u64) -> Self {
        Self { now_unix_nano: AtomicU64::new(unix_nano), random: Mutex::new(SplitMix64::new(seed)) }
    }

    /// Moves the clock forward.
    pub fn advance(&self, by: Duration) {
        let nanos = u64::try_from(by.as_nanos()).unwrap_or(u64::MAX);
        self.now_unix_nano.fetch_add(nanos, Ordering::SeqCst);
    }

    /// Sets the clock, backwards too: real clocks do that.
    pub fn set(&self, unix_nano: u64) {
        self.now_unix_nano.store(unix_nano, Ordering::SeqCst);
    }
}

impl Ambient for ManualAmbient {
    fn now_unix_nano(&self) -> u64 {
        self.now_unix_nano.load(Ordering::SeqCst)
    }

    fn random_u128(&self) -> u128 {
        let mut random = self.random.lock();
        (u128::from(random.next_u64()) << 64) | u128::from(random.next_u64())
    }
}

#[cfg(test)]
mod tests {
    use super::{Ambient, Duration, ManualAmbient, NOON_UNIX_NANO};

    #[test]
    fn moves_only_when_told() {
        let ambient = ManualAmbient::new(1);
        assert_eq!(ambient.now_unix_nano(), NOON_UNIX_NANO);
        assert_eq!(ambient.now_unix_nano(), NOON_UNIX_NANO);
        ambient.advance(Duration::from_micros(3));
        assert_eq!(ambient.now_unix_micro(), (NOON_UNIX_NANO / 1_000) as i64 + 3);
        ambient.set(5);
        assert_eq!(ambient.now_unix_nano(), 5);
    }

    #[test]
    fn repeats_its_randomness_for_a_seed() {
        let draw = |seed| {
            let ambient = ManualAmbient::new(seed);
            [ambient.random_u128(), ambient.random_u128()]
        };
        assert_eq!(draw(1), draw(1));
        assert_ne!(draw(1), draw(2));
        assert_ne!(draw(1)[0], draw(1)[1]);
    }
}
