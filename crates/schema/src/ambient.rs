use std::fmt::Debug;
use std::time::{SystemTime, UNIX_EPOCH};

/// The two things a process takes from its surroundings: the time and randomness. Both are injected, so that a test
/// decides them.
pub trait Ambient: Send + Sync + Debug {
    /// Nanoseconds since 1970-01-01T00:00:00Z.
    fn now_unix_nano(&self) -> u64;

    /// 128 random bits.
    fn random_u128(&self) -> u128;

    /// Microseconds since 1970-01-01T00:00:00Z, the unit of timestamp columns.
    fn now_unix_micro(&self) -> i64 {
        i64::try_from(self.now_unix_nano() / 1_000).unwrap_or(i64::MAX)
    }
}

/// The operating system's clock and randomness.
#[derive(Clone, Copy, Debug, Default)]
pub struct System;

impl Ambient for System {
    #[expect(clippy::disallowed_methods, reason = "the one place that reads the operating system's clock")]
    fn now_unix_nano(&self) -> u64 {
        let elapsed = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        u64::try_from(elapsed.as_nanos()).unwrap_or(u64::MAX)
    }

    #[expect(clippy::disallowed_methods, reason = "the one place that asks the operating system for randomness")]
    fn random_u128(&self) -> u128 {
        uuid::Uuid::new_v4().as_u128()
    }
}
